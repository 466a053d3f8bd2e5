import { signal } from "@preact/signals-core";
import type { DataSource } from "../../host/source";
import type { Matrix, PatternWindow } from "../../protocol/messages";

export type Status = { kind: "idle" | "asked" | "late" } | { kind: "failed"; reason: string };

/** Sixteen megabytes: every head of a small model at 15 tokens, or the last 256 at 128. */
const BUDGET = 16 * 2 ** 20;
const IDLE: Status = { kind: "idle" };

export const keyOf = ({ example, layer, head, rows, cols, size }: PatternWindow) =>
  [example, layer, head, ...rows, ...cols, ...(size ?? [])].join(" ");

/** Patterns that came, and requests for those that have not. */
export class PatternStore {
  /** Counts what changed: read it (through `get` and `status`) and a computation follows. */
  readonly #changes = signal(0);
  readonly #source: DataSource;
  readonly #kept = new Map<string, Matrix>(); // oldest first
  readonly #status = new Map<string, Status>();
  #size = 0;
  #asking: string | null = null;
  #next: PatternWindow | null = null;

  constructor(source: DataSource) {
    this.#source = source;
  }

  get(want: PatternWindow): Matrix | undefined {
    this.#changes.value;
    const key = keyOf(want);
    const found = this.#kept.get(key);
    if (found) {
      this.#kept.delete(key); // to the end of the line
      this.#kept.set(key, found);
    }
    return found;
  }

  status(want: PatternWindow): Status {
    this.#changes.value;
    return this.#status.get(keyOf(want)) ?? IDLE;
  }

  put(want: PatternWindow, matrix: Matrix): void {
    const key = keyOf(want);
    this.#size += matrix.values.byteLength - (this.#kept.get(key)?.values.byteLength ?? 0);
    this.#kept.set(key, matrix);
    for (const [old, { values }] of this.#kept) {
      if (this.#size <= BUDGET || old === key) break;
      this.#kept.delete(old);
      this.#size -= values.byteLength;
    }
    this.#changed();
  }

  /**
   * Ask for what is selected. One at a time: while a key is held down, only the newest wish waits its turn. A request
   * that is late no longer holds the line, and its reply is kept when it comes.
   */
  want(want: PatternWindow): void {
    this.#next = null;
    if (this.#asking !== null && this.#asking !== keyOf(want)) this.#next = want;
    else this.#ask(want, true);
  }

  /** Ask right away: a tile under the pointer, a row. */
  fetch(want: PatternWindow): void {
    this.#ask(want, false);
  }

  /** Ask again, also for what is late. */
  retry(want: PatternWindow): void {
    this.#status.delete(keyOf(want));
    this.want(want);
  }

  #ask(want: PatternWindow, inLine: boolean): void {
    const key = keyOf(want);
    const status = this.#status.get(key)?.kind;
    if (this.#kept.has(key) || status === "asked" || status === "late") return;
    if (status === "failed" && !inLine) return; // only what is selected anew is tried anew
    if (inLine) this.#asking = key;
    this.#mark(key, { kind: "asked" });
    this.#source
      .pattern(want, () => {
        if (this.#status.get(key)?.kind === "asked") this.#mark(key, { kind: "late" });
        this.#free(key);
      })
      .then(
        (matrix) => {
          this.#status.delete(key);
          this.put(want, matrix);
        },
        (error: Error) => this.#mark(key, { kind: "failed", reason: error.message }),
      )
      .finally(() => this.#free(key));
  }

  #free(key: string): void {
    if (this.#asking !== key) return;
    this.#asking = null;
    const next = this.#next;
    this.#next = null;
    if (next) this.#ask(next, true);
  }

  #mark(key: string, status: Status): void {
    this.#status.set(key, status);
    this.#changed();
  }

  #changed(): void {
    this.#changes.value = this.#changes.peek() + 1; // peek: who asks must not thereby follow
  }
}
