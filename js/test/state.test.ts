import { expect, test } from "vitest";
import { Life } from "../src/host/life";
import type { Spec } from "../src/protocol/messages";
import { CacheState } from "../src/views/cache/state";
import { PatternStore } from "../src/views/cache/store";
import { makeModel, weight } from "./model";

function setUp(changes: Partial<Spec> = {}, traits: Record<string, unknown> = {}) {
  const model = makeModel(changes, traits);
  const store = new PatternStore({ pattern: () => new Promise(() => {}) });
  return { model, store, life: new Life(), state: new CacheState(model, store, new Life()) };
}

const grid = (rows: [number, number], cols: [number, number]) => {
  const [height, width] = [rows[1] - rows[0], cols[1] - cols[0]];
  const values = Float32Array.from({ length: height * width }, (_, i) =>
    weight(0, 0, rows[0] + Math.floor(i / width), cols[0] + (i % width)),
  );
  return { rows: height, cols: width, values };
};

test("a selection goes to the model, once, and comes from it", () => {
  const { model, state } = setUp();
  state.select({ layer: 2, head: 1 });
  expect([model.get("layer"), model.get("head"), model.saves]).toEqual([2, 1, 1]);
  state.select({ layer: 2 });
  expect(model.saves).toBe(1);
  model.set("layer", 0);
  expect(state.shown.value).toEqual({ layer: 0, head: 1 });
});

test("a preview is shown and never sent; a selection from elsewhere ends it", () => {
  const { model, state } = setUp();
  state.previewHead.value = { layer: 2, head: 1 };
  expect(state.shown.value).toEqual({ layer: 2, head: 1 });
  expect([model.get("layer"), model.saves, model.sent.length]).toEqual([0, 0, 0]);
  model.set("layer", 1);
  expect(state.shown.value).toEqual({ layer: 1, head: 0 });
  state.previewHead.value = { layer: 2, head: 1 };
  expect(state.release()).toBe(true);
  expect(state.release()).toBe(false);
  expect(state.shown.value).toEqual({ layer: 1, head: 0 });
});

test("a cell is pinned by a click, released by the next, and lets go with its row", () => {
  const { state } = setUp();
  const cell = { query: 2, key: 1 };
  state.pin(cell);
  expect([state.pinned.value, state.selected.position.value]).toEqual([cell, 2]);
  state.select({ layer: 1 });
  expect(state.pinned.value).toEqual(cell);
  state.pin({ ...cell });
  expect(state.pinned.value).toBeNull();
  state.pin(cell);
  state.select({ position: 3 });
  expect(state.pinned.value).toBeNull();
});

test("Enter commits the cell that the keys have led to, and only then releases", () => {
  const { state } = setUp();
  state.point({ query: 3, key: 1 });
  state.pin({ query: 3, key: 1 });
  expect(state.pinned.value).toEqual({ query: 3, key: 1 });
  state.pin({ query: 3, key: 1 });
  expect(state.pinned.value).toBeNull();
});

test("the thumbnail stands in, but its numbers are none", () => {
  const { state, store } = setUp();
  expect(state.picture.value.kind).toBe("thumbnail");
  expect(state.weight({ query: 3, key: 1 })).toBeUndefined();
  expect(state.row.value.kind).toBe("rounded");
  store.put(state.whole(0, { layer: 0, head: 0 }), grid([0, 4], [0, 4]));
  expect(state.picture.value.kind).toBe("exact");
  expect(state.weight({ query: 3, key: 1 })).toBe(weight(0, 0, 3, 1));
  expect([...state.row.value.values]).toEqual([0, 1, 2, 3].map((key) => weight(0, 0, 3, key)));
  expect(state.strongest.value).toEqual([3, 2, 1, 0]);
});

test("what the kernel opened beforehand is there at once", () => {
  const { values } = grid([0, 4], [0, 4]);
  const opened = { example: 0, layer: 0, head: 0, shape: [4, 4] as [number, number] };
  const { state } = setUp({ opened }, { opened: new DataView(values.buffer) });
  expect(state.picture.value.kind).toBe("exact");
});

test("thumbnails of another example stand in for nothing", () => {
  const { state, model } = setUp();
  state.select({ example: 1 });
  expect(state.thumbsCurrent.value).toBe(false);
  expect(state.picture.value.kind).toBe("none");
  model.set("thumbs_example", 1);
  expect(state.picture.value.kind).toBe("thumbnail");
});

test("beyond one tile: an overview to look at, tiles and rows for the numbers", () => {
  const { state, store } = setUp({ n_query: 300, n_key: 300, thumb: [4, 4] });
  const whole = state.whole(0, { layer: 0, head: 0 });
  expect(whole).toMatchObject({ rows: [0, 300], cols: [0, 300], size: [128, 128] });
  store.put(whole, { rows: 128, cols: 128, values: new Float32Array(128 * 128).fill(0.5) });
  expect(state.picture.value.kind).toBe("pooled");
  const cell = { query: 299, key: 130 };
  expect(state.weight(cell)).toBeUndefined();
  expect(state.row.value.kind).toBe("coarse");
  const tile = state.tile(cell);
  expect(tile).toMatchObject({ rows: [256, 300], cols: [128, 256], size: null });
  store.put(tile, grid(tile.rows, tile.cols));
  expect(state.weight(cell)).toBe(weight(0, 0, 299, 130));
  expect(state.weight({ query: 299, key: 5 })).toBeUndefined();
  for (const piece of state.rowPieces(299)) store.put(piece, grid(piece.rows, piece.cols));
  expect(state.row.value.kind).toBe("exact");
  expect(state.row.value.values[299]).toBe(weight(0, 0, 299, 299));
  expect(state.weight({ query: 299, key: 5 })).toBe(weight(0, 0, 299, 5));
  expect(state.rowPieces(100).map(({ cols }) => cols)).toEqual([[0, 128]]); // later keys are masked
});

test("causal or not is seen from the data", () => {
  expect(setUp().state.masked(1, 2)).toBe(true);
  expect(setUp().state.masked(2, 2)).toBe(false);
  const full = new DataView(new Uint8Array(3 * 2 * 16).fill(40).buffer);
  expect(setUp({}, { thumbs: full }).state.masked(1, 2)).toBe(false);
});

test("fewer queries than keys: the last of them", () => {
  const thumbs = new Uint8Array(3 * 2 * 8).map((_, i) => (i % 4 > Math.floor((i % 8) / 4) + 2 ? 0 : 50));
  const { state } = setUp({ n_query: 2, thumb: [2, 4] }, { thumbs: new DataView(thumbs.buffer), position: 1 });
  expect(state.offset).toBe(2);
  expect([state.masked(0, 2), state.masked(0, 3), state.masked(1, 3)]).toEqual([false, true, false]);
});

test("the code for a cell", () => {
  expect(setUp().state.code({ query: 3, key: 2 })).toBe('cache["pattern", 0][0, 0, 3, 2]');
  const { state } = setUp({ batched: false, code: "my_cache" });
  state.select({ layer: 2, head: 1 });
  expect(state.code({ query: 3, key: 2 })).toBe('my_cache["pattern", 2][1, 3, 2]');
});
