/** What this package uses of anywidget's model; a static page brings a shim with the same methods. */
export interface Model {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  save_changes(): void;
  send(content: unknown, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
  on(event: "msg:custom", handler: (content: unknown, buffers?: DataView[]) => void): void;
  on(event: `change:${string}`, handler: () => void): void;
  off(event: string, handler: (...args: never[]) => void): void;
}

export interface RenderProps {
  model: Model;
  el: HTMLElement;
  /** Aborted when the view goes (anywidget 0.9.19 and later). */
  signal?: AbortSignal;
}
