import { expect, test } from "vitest";
import { headFacts } from "../src/views/cache/facts";

const values = Float32Array.from([1, 0, 0, 0.75, 0.25, 0, 0.5, 0.25, 0.25]);

test("means leave out the first token, which can only read itself", () => {
  expect(headFacts({ rows: 3, cols: 3, values }, 0, [])).toEqual({ previous: 0.5, first: 0.625 });
});

test("padding is no token", () => {
  expect(headFacts({ rows: 3, cols: 3, values }, 0, [2])).toEqual({ previous: 0.75, first: 0.75 });
  expect(headFacts({ rows: 3, cols: 3, values }, 0, [0])).toEqual({ previous: 0.25, first: 0.25 });
  expect(headFacts({ rows: 1, cols: 1, values }, 0, [])).toEqual({ previous: null, first: null });
});

test("queries may start later than keys", () => {
  const late = Float32Array.from([0.5, 0.25, 0.25]);
  expect(headFacts({ rows: 1, cols: 3, values: late }, 2, [])).toEqual({ previous: 0.25, first: 0.5 });
});
