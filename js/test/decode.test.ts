import { expect, test } from "vitest";
import { bytes, floats, NAN_CODE, thumbValue } from "../src/protocol/decode";

const values = [0, 0.1, 1, Number.NaN, Number.POSITIVE_INFINITY, 1e-38];

/** The values, little-endian, `before` bytes into a larger buffer. */
function viewAt(before: number): DataView {
  const buffer = new ArrayBuffer(before + 4 * values.length + 3);
  const view = new DataView(buffer, before, 4 * values.length);
  values.forEach((value, i) => {
    view.setFloat32(4 * i, value, true);
  });
  return view;
}

test.each([0, 4, 1, 2, 7])("floats start where the view does: %i bytes in", (before) => {
  expect([...floats(viewAt(before))]).toEqual(values.map(Math.fround));
});

test("aligned floats are not copied, and nothing is nothing", () => {
  const view = viewAt(8);
  expect(floats(view).buffer).toBe(view.buffer);
  expect(floats(null).length).toBe(0);
  expect(bytes(undefined).length).toBe(0);
});

test("bytes keep to their window", () => {
  const all = new Uint8Array([9, 1, 2, 3, 9]);
  expect([...bytes(new DataView(all.buffer, 1, 3))]).toEqual([1, 2, 3]);
  expect([...bytes(all.subarray(1, 3))]).toEqual([1, 2]);
});

test("codes of thumbnails", () => {
  expect(thumbValue(0)).toBe(0);
  expect(thumbValue(254)).toBe(1);
  expect(thumbValue(127)).toBe(0.5);
  expect(thumbValue(NAN_CODE)).toBeNaN();
});
