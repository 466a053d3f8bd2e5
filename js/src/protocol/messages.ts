/** The wire format, typed once. `tl_widgets/views` is the other side. */

/** A token's text; as hex where its bytes are no valid UTF-8 by themselves. */
export type Token = string | { bytes: string };

export interface Example {
  text: Token[];
  id: number[];
  /** Positions of special and of padding tokens. */
  special: number[];
  padding: number[];
}

export interface Spec {
  model: string;
  n_layers: number;
  n_heads: number;
  /** The layers whose pattern is cached: the rows of the grid. */
  layers: number[];
  n_query: number;
  n_key: number;
  examples: Example[];
  /** Rows and columns of one thumbnail. */
  thumb: [number, number];
  /** The largest side of an exact window. */
  tile: number;
  opened: { example: number; layer: number; head: number; shape: [number, number] } | null;
  /** The name of the cache in copied code. */
  code: string;
  batched: boolean;
}

/** A part of one head's pattern, max-pooled to at most `size`; exact where that is null. */
export interface PatternWindow {
  example: number;
  layer: number;
  head: number;
  rows: [number, number];
  cols: [number, number];
  size: [number, number] | null;
}

/** What a page may ask; the channel numbers it. A page that is open keeps the cache alive. */
export type Request = ({ kind: "pattern" } & PatternWindow) | { kind: "open" | "close"; view: string };

export type Reply = { id: number; ok: true; shape?: [number, number] } | { id: number; ok: false; error: string };

/** Row-major values, as they came. */
export interface Matrix {
  rows: number;
  cols: number;
  values: Float32Array;
}
