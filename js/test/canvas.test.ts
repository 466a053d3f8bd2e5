import { expect, test } from "vitest";
import { resample, spans } from "../src/draw/canvas";

const sample = (level: number[], cols: number, height: number, width: number) => [
  ...resample(Uint8Array.from(level), 0, cols, spans(level.length / cols, height), spans(cols, width)),
];

test("spans cover all, once", () => {
  for (const [count, pixels] of [
    [3, 3],
    [3, 7],
    [7, 3],
    [15, 20],
  ] as const) {
    const all = new Array(count).fill(0);
    for (const { first, shares } of spans(count, pixels)) {
      expect(shares.reduce((a, b) => a + b)).toBeCloseTo(1);
      shares.forEach((share, i) => {
        all[first + i] += (share * count) / pixels;
      });
    }
    for (const covered of all) expect(covered).toBeCloseTo(1);
  }
});

test("whole multiples keep hard edges, others mix at the border", () => {
  expect(sample([0, 200], 2, 1, 4)).toEqual([0, 0, 200, 200]);
  expect(sample([0, 200], 2, 1, 3)).toEqual([0, 100, 200]);
});

test("shrinking keeps the strongest", () => {
  expect(sample([0, 0, 0, 250, 0, 0], 6, 1, 2)).toEqual([0, 250]);
  expect(sample([0, 9, 0, 0], 1, 2, 1)).toEqual([9, 0]);
});

test("starts at the offset of its head", () => {
  expect([...resample(Uint8Array.from([7, 7, 1, 2]), 2, 2, spans(1, 1), spans(2, 2))]).toEqual([1, 2]);
});
