import type { Reply, Request } from "../protocol/messages";
import type { Life } from "./life";
import type { Model } from "./model";

export interface Answer {
  reply: Reply & { ok: true };
  buffers: DataView[];
}

interface Waiting {
  resolve(answer: Answer): void;
  reject(error: Error): void;
  timer: ReturnType<typeof setTimeout>;
}

/**
 * Requests and their replies over a widget's custom messages.
 *
 * A deadline does not end a request: the kernel may only be busy, and its reply is as good as ever when it comes.
 * So a promise is settled by the reply alone, and being late is a callback.
 */
export class Channel {
  readonly #model: Model;
  readonly #life: Life;
  readonly #waiting = new Map<number, Waiting>();
  // Every view of a widget, also in other browser windows, hears every reply: each numbers from somewhere else.
  #id = Math.floor(Math.random() * 2 ** 31) * 2 ** 20;

  constructor(model: Model, life: Life) {
    this.#model = model;
    this.#life = life;
    const hear = (content: unknown, buffers?: DataView[]) => this.#hear(content, buffers ?? []);
    model.on("msg:custom", hear);
    life.add(() => {
      model.off("msg:custom", hear);
      for (const { timer } of this.#waiting.values()) clearTimeout(timer);
      this.#waiting.clear();
    });
  }

  /** Ask, and call `late` once if no reply has come within `deadline` ms. Rejects if the reply is an error. */
  ask(body: Request, deadline: number, late: () => void = () => {}): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#life.ended) return; // nobody is left to hear it
      const id = ++this.#id;
      this.#waiting.set(id, { resolve, reject, timer: setTimeout(late, deadline) });
      try {
        this.#model.send({ ...body, id });
      } catch {
        this.#settle(id)?.reject(new Error("no kernel is connected: run the cell again"));
      }
    });
  }

  /** Say something whose reply nobody waits for. */
  tell(body: Request): void {
    try {
      this.#model.send({ ...body, id: ++this.#id });
    } catch {
      // Without a kernel there is nobody to tell.
    }
  }

  #hear(content: unknown, buffers: DataView[]): void {
    const reply = content as Partial<Reply> | null;
    if (typeof reply !== "object" || typeof reply?.id !== "number") return;
    const waiting = this.#settle(reply.id);
    if (reply.ok === true) waiting?.resolve({ reply: reply as Answer["reply"], buffers });
    else waiting?.reject(new Error(("error" in reply && reply.error) || "the kernel gave no reason"));
  }

  #settle(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id);
    clearTimeout(waiting?.timer);
    this.#waiting.delete(id);
    return waiting;
  }
}
