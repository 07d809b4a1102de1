// The conversation as a list: what was played, what was heard, and the answers, word by word.

const MAX_ITEMS = 200;

export class Turns {
  // announce(text): for screen readers. notUnderstood: the answer to what was not understood.
  constructor(list, announce) {
    this.list = list;
    this.announce = announce;
    this.notUnderstood = null;
    this.answer = null;
    this.answers = new Map(); // of this conversation, by the slice of the decision
    this.answeringUntilS = 0;
  }

  // A new conversation: its times start from 0 again.
  begin() {
    this.answer = null;
    this.answers.clear();
    this.answeringUntilS = 0;
    if (this.list.children.length) this.list.append(Object.assign(document.createElement("li"), { className: "rule" }));
  }

  // A clip or a sentence of the synthesiser, with its time in the conversation.
  addClip(text, atS) {
    this.add("played", text, atS);
  }

  // The transcript of a stretch of speech. Returns whether nobody took any notice of it.
  addHeard({ slice, text, answered, start_s: startS }) {
    const words = text || "(speech)";
    const item = this.add("heard", words, startS, this.answers.get(slice));
    // What was said during an answer may well be for somebody else.
    const missed = !answered && startS >= this.answeringUntilS;
    if (missed) this.addNote(item, "I did not catch that: ask again, or in other words");
    else if (!answered) this.addNote(item, "not for me");
    this.announce(missed ? `I did not catch that. I heard: ${words}` : `You: ${words}`);
    return missed;
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
    this.announce(`${reason ? `Answer, ${reason}` : "Answer"}: ${words}`);
    this.answer = null;
    return words;
  }

  add(kind, text, atS, before = null) {
    const item = Object.assign(document.createElement("li"), { className: kind });
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
