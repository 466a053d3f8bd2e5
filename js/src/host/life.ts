import { effect } from "@preact/signals-core";

/** Everything that a view must let go of when it ends, in one place: nothing may outlive it. */
export class Life {
  readonly #controller = new AbortController();

  /** @param parent ends this life with it (anywidget's `signal`; older ones give none) */
  constructor(parent?: AbortSignal) {
    parent?.addEventListener("abort", () => this.end(), { once: true, signal: this.signal });
    if (parent?.aborted) this.end();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get ended(): boolean {
    return this.signal.aborted;
  }

  /** Run `release` at the end (at once, where that has been already). */
  add(release: () => void): void {
    if (this.ended) release();
    else this.signal.addEventListener("abort", release, { once: true });
  }

  on<K extends keyof HTMLElementEventMap>(
    target: EventTarget,
    type: K,
    handler: (event: HTMLElementEventMap[K]) => void,
    options: AddEventListenerOptions = {},
  ): void {
    target.addEventListener(type, handler as EventListener, { ...options, signal: this.signal });
  }

  /** Like a signal's `effect`; what `run` returns is called before the next run and at the end. */
  effect(run: () => undefined | (() => void)): void {
    if (!this.ended) this.add(effect(run));
  }

  end(): void {
    this.#controller.abort();
  }
}
