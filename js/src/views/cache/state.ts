import { computed, type Signal, signal } from "@preact/signals-core";
import type { Life } from "../../host/life";
import type { Model } from "../../host/model";
import { bytes, floats, thumbValue } from "../../protocol/decode";
import type { Matrix, PatternWindow, Spec } from "../../protocol/messages";
import { type Cell, follow, type Head, Selection } from "./selection";
import type { PatternStore, Status } from "./store";

/** What the large pattern is drawn from. Only the numbers of an exact one may be shown as numbers. */
export interface Picture extends Matrix {
  kind: "exact" | "pooled" | "thumbnail" | "none";
}

/** One query's weights: as they are, as an 8-bit thumbnail has them, or as the strongest of several cells. */
export interface Row {
  values: Float32Array;
  kind: "exact" | "rounded" | "coarse";
}

const NOTHING: Picture = { rows: 0, cols: 0, values: new Float32Array(), kind: "none" };

/** The selection, and what follows from it: which data are needed, what is shown of those at hand. */
export class CacheState extends Selection {
  readonly spec: Spec;
  readonly thumbs: Signal<{ example: number; codes: Uint8Array }>;
  readonly #model: Model;
  readonly #store: PatternStore;

  constructor(model: Model, store: PatternStore, life: Life) {
    super(model, life);
    this.#model = model;
    this.#store = store;
    this.spec = model.get("spec") as Spec;
    this.thumbs = signal(this.#readThumbs());
    for (const name of ["thumbs", "thumbs_example"]) {
      const adopt = () => {
        this.thumbs.value = this.#readThumbs();
      };
      follow(model, name, adopt, life);
    }
    const { opened } = this.spec;
    const values = floats(model.get("opened") as DataView);
    if (opened && values.length > 0 && values.length === opened.shape[0] * opened.shape[1]) {
      store.put(this.whole(opened.example, opened), { rows: opened.shape[0], cols: opened.shape[1], values });
    }
  }

  #readThumbs() {
    return { example: Number(this.#model.get("thumbs_example")), codes: bytes(this.#model.get("thumbs") as DataView) };
  }

  readonly example = computed(() => this.spec.examples[this.selected.example.value]);

  /** Whether the thumbnails at hand are those of the example shown. */
  readonly thumbsCurrent = computed(
    () => this.thumbs.value.example === this.selected.example.value && this.thumbs.value.codes.length > 0,
  );

  /** Keys that come before the first query (a cache of keys makes fewer queries than keys). */
  get offset(): number {
    return this.spec.n_key - this.spec.n_query;
  }

  /** Whether every weight on a later token is zero: then that half of the pattern is no data. */
  readonly causal = computed(() => {
    const [rows, cols] = this.spec.thumb;
    const { codes } = this.thumbs.value;
    const size = rows * cols;
    for (let at = 0; at < codes.length; at++) {
      const row = Math.floor((at % size) / cols);
      const lastQuery = Math.ceil(((row + 1) * this.spec.n_query) / rows) - 1;
      const firstKey = Math.floor(((at % cols) * this.spec.n_key) / cols);
      const code = codes[at]!;
      if (firstKey > lastQuery + this.offset && code !== 0 && code !== 255) return false;
    }
    return true;
  });

  masked(query: number, key: number): boolean {
    return this.causal.value && key > query + this.offset;
  }

  /** The request for all of a head: exact where it is small, an overview where not. */
  whole(example: number, { layer, head }: Head): PatternWindow {
    const { n_query, n_key, tile } = this.spec;
    const size: PatternWindow["size"] =
      n_query <= tile && n_key <= tile ? null : [Math.min(n_query, tile), Math.min(n_key, tile)];
    return { example, layer, head, rows: [0, n_query], cols: [0, n_key], size };
  }

  /** The exact piece that a cell lies in. */
  tile({ query, key }: Cell): PatternWindow {
    const { n_query, n_key, tile } = this.spec;
    const part = (at: number, end: number): [number, number] => {
      const start = Math.floor(at / tile) * tile;
      return [start, Math.min(start + tile, end)];
    };
    return {
      example: this.selected.example.value,
      ...this.shown.value,
      rows: part(query, n_query),
      cols: part(key, n_key),
      size: null,
    };
  }

  /** The pieces of one row of the pattern. */
  rowPieces(query: number): PatternWindow[] {
    const pieces: PatternWindow[] = [];
    const seen = this.causal.value ? Math.min(this.spec.n_key, query + this.offset + 1) : this.spec.n_key;
    for (let key = 0; key < seen; key += this.spec.tile) {
      pieces.push({ ...this.tile({ query, key }), rows: [query, query + 1] });
    }
    return pieces;
  }

  readonly picture = computed<Picture>(() => {
    const found = this.#store.get(this.whole(this.selected.example.value, this.shown.value));
    if (found) {
      const all = found.rows === this.spec.n_query && found.cols === this.spec.n_key;
      return { ...found, kind: all ? "exact" : "pooled" };
    }
    const row = this.spec.layers.indexOf(this.shown.value.layer);
    const { head } = this.shown.value;
    if (!this.thumbsCurrent.value || row < 0 || head < 0 || head >= this.spec.n_heads) return NOTHING;
    const [rows, cols] = this.spec.thumb;
    const start = (row * this.spec.n_heads + head) * rows * cols;
    const codes = this.thumbs.value.codes.subarray(start, start + rows * cols);
    if (codes.length < rows * cols) return NOTHING;
    return { rows, cols, values: Float32Array.from(codes, thumbValue), kind: "thumbnail" };
  });

  readonly status = computed<Status>(() =>
    this.#store.status(this.whole(this.selected.example.value, this.shown.value)),
  );

  /** The weight itself; undefined while it is not here. */
  weight(cell: Cell): number | undefined {
    const picture = this.picture.value;
    if (picture.kind === "exact") return picture.values[cell.query * picture.cols + cell.key];
    if (picture.kind !== "pooled") return undefined;
    const row = this.rowPieces(cell.query)[Math.floor(cell.key / this.spec.tile)];
    for (const piece of row ? [this.tile(cell), row] : [this.tile(cell)]) {
      const found = this.#store.get(piece);
      if (found) return found.values[(cell.query - piece.rows[0]) * found.cols + cell.key - piece.cols[0]];
    }
    return undefined;
  }

  /** Something to paint a cell by, exact or not. */
  paint({ query, key }: Cell): number {
    const picture = this.picture.value;
    const row = Math.floor((query * picture.rows) / this.spec.n_query);
    const col = Math.floor((key * picture.cols) / this.spec.n_key);
    return picture.values[row * picture.cols + col] ?? 0;
  }

  /** What a query reads, key by key. */
  readonly row = computed<Row>(() => {
    const { n_key, n_query, tile } = this.spec;
    const query = this.position.value;
    const picture = this.picture.value;
    if (picture.kind === "exact") {
      return { values: picture.values.subarray(query * n_key, (query + 1) * n_key), kind: "exact" };
    }
    const pieces = picture.kind === "pooled" ? this.rowPieces(query).map((piece) => this.#store.get(piece)) : [];
    const fine = picture.rows === n_query && picture.cols === n_key;
    let kind: Row["kind"] = fine ? "rounded" : "coarse";
    if (pieces.length > 0 && pieces.every((piece) => piece)) kind = "exact";
    const values = Float32Array.from({ length: n_key }, (_, key) => {
      if (this.masked(query, key)) return 0;
      return pieces[Math.floor(key / tile)]?.values[key % tile] ?? this.paint({ query, key });
    });
    return { values, kind };
  });

  /** Keys of the shown row, strongest first, without those that get nothing. */
  readonly strongest = computed<number[]>(() => {
    const { values } = this.row.value;
    return [...values.keys()].filter((key) => values[key]! > 0).sort((a, b) => values[b]! - values[a]! || a - b);
  });

  /** The cell that the read-out speaks of: what is pointed at, else what is pinned, else the row's strongest. */
  readonly spoken = computed<{ cell: Cell; why: "cell" | "strongest" } | null>(() => {
    const cell = this.hovered.value ?? this.pinned.value;
    if (cell) return { cell, why: "cell" };
    const key = this.strongest.value[0];
    return key === undefined ? null : { cell: { query: this.position.value, key }, why: "strongest" };
  });

  /** The Python that fetches a cell. */
  code({ query, key }: Cell): string {
    const { layer, head } = this.shown.value;
    const index = [...(this.spec.batched ? [this.selected.example.value] : []), head, query, key];
    return `${this.spec.code}["pattern", ${layer}][${index.join(", ")}]`;
  }
}
