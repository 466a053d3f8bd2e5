import { effect } from "@preact/signals-core";
import { expect, test, vi } from "vitest";
import type { Matrix, PatternWindow } from "../src/protocol/messages";
import { PatternStore } from "../src/views/cache/store";

interface Asked {
  want: PatternWindow;
  late(): void;
  resolve(matrix: Matrix): void;
  reject(error: Error): void;
}

function setUp() {
  const asked: Asked[] = [];
  const store = new PatternStore({
    pattern: (want, late) => new Promise((resolve, reject) => asked.push({ want, late, resolve, reject })),
  });
  return { asked, store, heads: () => asked.map(({ want }) => want.head) };
}

const head = (index: number): PatternWindow => ({
  example: 0,
  layer: 0,
  head: index,
  rows: [0, 1],
  cols: [0, 1],
  size: null,
});
const matrix = (cells = 1): Matrix => ({ rows: 1, cols: cells, values: new Float32Array(cells) });
const settled = () => new Promise((resolve) => setTimeout(resolve));

test("while one is under way, only the newest wish waits", async () => {
  const { store, asked, heads } = setUp();
  for (let i = 0; i < 5; i++) store.want(head(i));
  expect(heads()).toEqual([0]);
  asked[0]!.resolve(matrix());
  await settled();
  expect(heads()).toEqual([0, 4]);
  expect(store.get(head(0))).toBeDefined(); // stale, but kept
});

test("coming back to what is under way forgets what waited", async () => {
  const { store, asked, heads } = setUp();
  for (const i of [0, 1, 0]) store.want(head(i));
  asked[0]!.resolve(matrix());
  await settled();
  expect(heads()).toEqual([0]);
});

test("what is here is not asked for again", async () => {
  const { store, asked } = setUp();
  store.want(head(0));
  store.want(head(0));
  store.fetch(head(0));
  asked[0]!.resolve(matrix());
  await settled();
  store.want(head(0));
  expect(asked.length).toBe(1);
  expect(store.status(head(0)).kind).toBe("idle");
});

test("one that is late frees the line, and its reply still lands", async () => {
  const { store, asked, heads } = setUp();
  store.want(head(0));
  store.want(head(1));
  asked[0]!.late();
  expect(store.status(head(0)).kind).toBe("late");
  expect(heads()).toEqual([0, 1]);
  store.want(head(0)); // it is on its way: nothing to ask
  expect(heads()).toEqual([0, 1]);
  asked[0]!.resolve(matrix());
  await settled();
  expect(store.get(head(0))).toBeDefined();
  expect(store.status(head(0)).kind).toBe("idle");
});

test("a failure is told, frees the line, and is tried again when selected anew or asked to", async () => {
  const { store, asked, heads } = setUp();
  store.want(head(0));
  store.want(head(1));
  asked[0]!.reject(new Error("no"));
  await settled();
  expect(store.status(head(0))).toEqual({ kind: "failed", reason: "no" });
  expect(heads()).toEqual([0, 1]);
  store.fetch(head(0));
  expect(heads()).toEqual([0, 1]);
  asked[1]!.resolve(matrix());
  await settled();
  store.want(head(0));
  expect(heads()).toEqual([0, 1, 0]);
  store.retry(head(0));
  expect(heads()).toEqual([0, 1, 0, 0]);
});

test("computations follow what comes, and asking follows nothing", async () => {
  const { store, asked } = setUp();
  const seen = vi.fn();
  effect(() => seen(store.get(head(0)) !== undefined));
  let runs = 0;
  effect(() => {
    runs++;
    store.want(head(0));
  });
  asked[0]!.resolve(matrix());
  await settled();
  expect(seen).toHaveBeenLastCalledWith(true);
  expect(runs).toBe(1);
});

test("the least recently seen goes when there is too much", () => {
  const { store } = setUp();
  const quarter = 2 ** 20; // cells: 4 MB of the 16
  for (let i = 0; i < 4; i++) store.put(head(i), matrix(quarter));
  store.get(head(0));
  store.put(head(4), matrix(quarter));
  expect([0, 1, 2, 3, 4].filter((i) => store.get(head(i)))).toEqual([0, 2, 3, 4]);
});
