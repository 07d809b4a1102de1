// The conversation as a list: what was played, what was heard, and the answers, word by word.

const MAX_ITEMS = 200;
const SPEAKERS = { played: "Played:", heard: "You:", answer: "Answer:" };

export class Turns {
  // announce(text): for screen readers. notUnderstood: the answer to what was not understood.
  constructor(list, announce) {
    this.list = list;
    this.announce = announce;
    this.notUnderstood = null;
    this.answer = null;
    this.answers = new Map(); // of this conversation, by the slice of the decision
    this.answeringUntilS = 0;
    this.heard = new Map(); // items of speech whose text is not final yet, by its start
    this.later = []; // what is announced after these texts
  }

  // A new conversation: its times start from 0 again.
  begin() {
    this.answer = null;
    this.answers.clear();
    this.answeringUntilS = 0;
    this.heard.clear();
    if (this.list.children.length) this.list.append(Object.assign(document.createElement("li"), { className: "rule" }));
  }

  // A clip or a sentence of the synthesiser, with its time in the conversation.
  addClip(text, atS) {
    this.add("played", text, atS);
  }

  // Speech that goes on, or on which there is a decision, and its text so far. Returns whether it has just turned
  // out that nobody takes any notice of it.
  addHeard({ slice, text, answered, final, start_s: startS }) {
    const item = this.heard.get(startS) ?? this.add("heard in-progress", "", startS, this.answers.get(slice));
    this.heard.set(startS, item);
    item.querySelector("span").textContent = text || (final ? "(speech)" : "…");
    this.scroll();
    const decided = answered !== null && !("missed" in item.dataset);
    if (decided) this.addDecision(item, answered, startS);
    if (final) this.endHeard(startS, item);
    return decided && item.dataset.missed === "yes";
  }

  addDecision(item, answered, startS) {
    // What was said during an answer may well be for somebody else.
    const missed = !answered && startS >= this.answeringUntilS;
    item.dataset.missed = missed ? "yes" : "no";
    if (missed) this.addNote(item, "I did not catch that. If it was for me, ask again or in other words.");
    else if (!answered) this.addNote(item, "not for me");
  }

  endHeard(startS, item) {
    this.heard.delete(startS);
    item.classList.remove("in-progress");
    const words = item.querySelector("span").textContent;
    this.announce(item.dataset.missed === "yes" ? `I did not catch that. I heard: ${words}` : `You: ${words}`);
    if (!this.heard.size) this.later.splice(0).forEach(this.announce);
  }

  // A slice: text of a response, its end, or a new response that interrupts the old one. Returns "interrupted" or
  // "missed" if that has just happened.
  addSlice({ slice, action, text, answering, time_s: atS }) {
    let news = "";
    if (action === "respond") {
      if (this.answer) {
        this.stop("interrupted");
        news = "interrupted";
      }
      this.answer = this.add("answer in-progress", "", atS);
      this.answers.set(slice, this.answer);
    }
    if (!this.answer) return news;
    this.answeringUntilS = atS;
    const words = this.answer.querySelector("span");
    words.textContent = (words.textContent + text).trimStart();
    this.scroll();
    if (answering) return news;
    return this.stop("") === this.notUnderstood ? "missed" : news;
  }

  // The conversation is over: no more texts come.
  end() {
    this.stop("ended");
    for (const item of this.heard.values()) item.classList.remove("in-progress");
    this.heard.clear();
    this.later.splice(0).forEach(this.announce);
  }

  // End the response in progress, and return its text; reason: "interrupted", "ended" or empty.
  stop(reason) {
    if (!this.answer) return "";
    const words = this.answer.querySelector("span").textContent || "(nothing)";
    this.answer.querySelector("span").textContent = words;
    this.answer.classList.remove("in-progress");
    if (reason) {
      this.answer.classList.add("interrupted");
      this.addNote(this.answer, reason);
    }
    const announced = `${reason ? `Answer, ${reason}` : "Answer"}: ${words}`;
    // A question is read before its answer, and nothing while somebody speaks.
    if (this.heard.size) this.later.push(announced);
    else this.announce(announced);
    this.answer = null;
    return words;
  }

  add(kind, text, atS, before = null) {
    const item = Object.assign(document.createElement("li"), { className: kind });
    const [first] = kind.split(" ");
    // Colours say who it is; screen readers need a word.
    item.append(Object.assign(document.createElement("b"), { className: "visually-hidden", textContent: SPEAKERS[first] }));
    item.append(Object.assign(document.createElement("time"), { textContent: `${atS.toFixed(1)} s` }));
    item.append(Object.assign(document.createElement("span"), { textContent: text }));
    this.list.insertBefore(item, before);
    if (this.list.children.length > MAX_ITEMS) this.list.firstElementChild.remove();
    this.scroll();
    return item;
  }

  addNote(item, text) {
    item.append(Object.assign(document.createElement("em"), { textContent: text }));
  }

  scroll() {
    this.list.scrollTop = this.list.scrollHeight;
  }
}
