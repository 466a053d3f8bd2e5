import { expect, test } from "vitest";
import { thin } from "../src/draw/labels";

test("all are shown where they have room", () => {
  expect(thin(5, 15, 15)).toEqual([0, 1, 2, 3, 4]);
  expect(thin(0, 15, 15)).toEqual([]);
});

test("crowded ones are thinned out evenly", () => {
  expect(thin(7, 10, 15)).toEqual([0, 2, 4, 6]);
  expect(thin(10, 4, 15)).toEqual([0, 4, 8]);
});

test("what is to be kept is, and its neighbours go", () => {
  expect(thin(10, 4, 15, [5])).toEqual([0, 5]);
  expect(thin(10, 4, 15, [-1, 99])).toEqual([0, 4, 8]);
});

test.each([0.8, 1.7, 3, 7.3, 14.9, 15, 40])("none touches the next, %d px apart", (step) => {
  for (const keep of [[], [17], [3, 4, 5]]) {
    const shown = thin(300, step, 15, keep);
    expect(shown.length).toBeGreaterThan(10);
    for (let i = 1; i < shown.length; i++) expect((shown[i]! - shown[i - 1]!) * step).toBeGreaterThanOrEqual(15 - 1e-6);
  }
});
