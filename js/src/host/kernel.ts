import { floats } from "../protocol/decode";
import type { Matrix, PatternWindow } from "../protocol/messages";
import { Channel } from "./channel";
import type { Life } from "./life";
import type { Model } from "./model";
import type { DataSource } from "./source";

/** A reply takes some 35 ms; one that has not come after this long waits behind a running cell. */
const DEADLINE = 3000;

/** Data from the kernel of the notebook. While it lives, the kernel keeps the cache alive. */
export class KernelSource implements DataSource {
  readonly #channel: Channel;

  constructor(model: Model, life: Life) {
    // Registered before the channel's own release, so that it can still speak.
    const view = Math.random().toString(36).slice(2);
    const close = () => this.#channel.tell({ kind: "close", view });
    life.add(close);
    window.addEventListener("pagehide", close, { signal: life.signal });
    this.#channel = new Channel(model, life);
    // What a refusal means is said where it matters: by the answers to what is asked next.
    this.#channel.ask({ kind: "open", view }, DEADLINE).catch(() => {});
  }

  async pattern(want: PatternWindow, late: () => void): Promise<Matrix> {
    const { reply, buffers } = await this.#channel.ask({ kind: "pattern", ...want }, DEADLINE, late);
    const [rows, cols] = reply.shape ?? [0, 0];
    const values = buffers[0] ? floats(buffers[0]) : new Float32Array();
    if (rows * cols === 0 || values.length !== rows * cols) throw new Error("the kernel's answer is incomplete");
    return { rows, cols, values };
  }
}
