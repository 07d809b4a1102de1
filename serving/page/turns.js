// The conversation as a list: clips that were played, and responses, word by word.

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

  // A clip or a sentence of the synthesiser, with its time in the conversation.
  addClip(text, atS) {
    this.add("you", text, atS);
  }

  // A slice: text of a response, its end, or a new response that interrupts the old one.
  addSlice({ action, text, answering, time_s: atS }) {
    if (action === "respond") {
      if (this.answer) this.stop("interrupted");
      this.answer = this.add("answer in-progress", "", atS);
    }
    if (!this.answer) return;
    const words = this.answer.querySelector("span");
    words.textContent = (words.textContent + text).trimStart();
    this.list.scrollTop = this.list.scrollHeight;
    if (!answering) this.stop("");
  }

  // End the response in progress; reason: "interrupted", "ended" or empty.
  stop(reason) {
    if (!this.answer) return;
    const words = this.answer.querySelector("span").textContent || "(nothing)";
    this.answer.querySelector("span").textContent = words;
    this.answer.classList.remove("in-progress");
    if (reason) {
      this.answer.classList.add("interrupted");
      this.answer.append(Object.assign(document.createElement("em"), { textContent: reason }));
    }
    this.announced.textContent = `${reason ? `Answer, ${reason}` : "Answer"}: ${words}`;
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
