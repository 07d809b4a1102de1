// The conversation as a list: what was played to it, and its answers, word by word.

export class Turns {
  constructor(list, announced) {
    this.list = list;
    this.announced = announced;
    this.answer = null;
  }

  clear() {
    this.list.replaceChildren();
    this.answer = null;
  }

  // Something said by a clip or the synthesiser, at a time of the conversation.
  said(text, atS) {
    this.add("you", text, atS);
  }

  // A slice: words of an answer, its end, or a new answer in the place of the old one.
  take({ action, text, answering, time_s: atS }) {
    if (action === "respond") {
      if (this.answer) this.stop("interrupted");
      this.answer = this.add("answer going", "", atS);
    }
    if (!this.answer) return;
    const words = this.answer.querySelector("span");
    words.textContent = (words.textContent + text).trimStart();
    this.list.scrollTop = this.list.scrollHeight;
    if (!answering) this.stop("");
  }

  // The answer under way is over; why: interrupted, or nothing.
  stop(why) {
    if (!this.answer) return;
    const words = this.answer.querySelector("span").textContent || "(nothing)";
    this.answer.querySelector("span").textContent = words;
    this.answer.classList.remove("going");
    if (why) {
      this.answer.classList.add("cut");
      this.answer.append(Object.assign(document.createElement("em"), { textContent: why }));
    }
    this.announced.textContent = `${why ? `Answer, ${why}` : "Answer"}: ${words}`;
    this.answer = null;
  }

  add(kind, text, atS) {
    const item = Object.assign(document.createElement("li"), { className: kind });
    item.append(Object.assign(document.createElement("time"), { textContent: `${atS.toFixed(1)} s` }));
    item.append(Object.assign(document.createElement("span"), { textContent: text }));
    this.list.append(item);
    this.list.scrollTop = this.list.scrollHeight;
    return item;
  }
}
