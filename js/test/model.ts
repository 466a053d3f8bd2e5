import type { Model } from "../src/host/model";
import type { PatternWindow, Spec } from "../src/protocol/messages";

export interface Sent extends Partial<PatternWindow> {
  id: number;
  kind: string;
  view?: string;
}

/** A kernel that answers when told to. The weight of a cell says where it is from. */
export class FakeModel implements Model {
  readonly sent: Sent[] = [];
  saves = 0;
  readonly #traits: Record<string, unknown>;
  readonly #handlers = new Map<string, Set<(...args: never[]) => void>>();

  constructor(traits: Record<string, unknown> = {}) {
    this.#traits = traits;
  }

  get(name: string): unknown {
    return this.#traits[name];
  }

  set(name: string, value: unknown): void {
    if (this.#traits[name] === value) return;
    this.#traits[name] = value;
    this.fire(`change:${name}`);
  }

  save_changes(): void {
    this.saves++;
  }

  send(content: unknown): void {
    this.sent.push(content as Sent);
  }

  on(event: string, handler: (...args: never[]) => void): void {
    if (!this.#handlers.has(event)) this.#handlers.set(event, new Set());
    this.#handlers.get(event)!.add(handler);
  }

  off(event: string, handler: (...args: never[]) => void): void {
    this.#handlers.get(event)?.delete(handler);
  }

  get listeners(): number {
    return [...this.#handlers.values()].reduce((sum, set) => sum + set.size, 0);
  }

  fire(event: string, ...args: unknown[]): void {
    for (const handler of [...(this.#handlers.get(event) ?? [])]) handler(...(args as never[]));
  }

  asked(): Sent[] {
    return this.sent.filter(({ kind }) => kind === "pattern");
  }

  answer(request: Sent): void {
    const [rows, cols] = [request.rows!, request.cols!];
    const [height, width] = request.size ?? [rows[1] - rows[0], cols[1] - cols[0]];
    const values = Float32Array.from({ length: height * width }, (_, i) =>
      weight(request.layer!, request.head!, rows[0] + Math.floor(i / width), cols[0] + (i % width)),
    );
    this.fire("msg:custom", { id: request.id, ok: true, shape: [height, width] }, [new DataView(values.buffer)]);
  }
}

export function weight(layer: number, head: number, query: number, key: number): number {
  return key > query ? 0 : Math.fround((1 + key + 0.1 * query + 0.01 * head + 0.001 * layer) / 997);
}

export function makeSpec(changes: Partial<Spec> = {}): Spec {
  const n = changes.n_key ?? 4;
  const text = ["<|bos|>", " a", "\n", "<img src=x onerror=alert(1)>"];
  const example = {
    text: Array.from({ length: n }, (_, i) => text[i] ?? ` t${i}`),
    id: Array.from({ length: n }, (_, i) => i),
    special: [0],
    padding: [],
  };
  return {
    model: "toy",
    n_layers: 3,
    n_heads: 2,
    layers: [0, 1, 2],
    n_query: n,
    n_key: n,
    examples: [example, example],
    thumb: [Math.min(n, 4), Math.min(n, 4)],
    tile: 128,
    opened: null,
    code: "cache",
    batched: true,
    ...changes,
  };
}

export function makeModel(changes: Partial<Spec> = {}, traits: Record<string, unknown> = {}): FakeModel {
  const spec = makeSpec(changes);
  const [rows, cols] = spec.thumb;
  const codes = Uint8Array.from({ length: spec.layers.length * spec.n_heads * rows * cols }, (_, i) => {
    const [row, col] = [Math.floor(i / cols) % rows, i % cols];
    return col > row ? 0 : 100 + col;
  });
  return new FakeModel({
    spec,
    thumbs: new DataView(codes.buffer),
    thumbs_example: 0,
    opened: null,
    example: 0,
    layer: spec.layers[0],
    head: 0,
    position: spec.n_query - 1,
    ...traits,
  });
}
