import { expect, test } from "vitest";
import { exact, short, tiny } from "../src/draw/format";

test("exact reads back as the same float32, in as few digits as that takes", () => {
  expect(exact(Math.fround(0.1))).toBe("0.1"); // as a double it is 0.10000000149011612
  expect(exact(Math.fround(1 / 3))).toBe("0.33333334");
  expect(exact(1)).toBe("1");
  expect(exact(0)).toBe("0");
  expect(exact(Math.fround(1.1754944e-38))).toBe("1.1754944e-38");
  expect(exact(Number.NaN)).toBe("NaN");
  const word = new Uint32Array(1);
  const float = new Float32Array(word.buffer);
  for (let i = 1; i <= 20000; i++) {
    word[0] = (i * 53239) % 0x3f800001; // bit patterns of 0..1
    const text = exact(float[0]!);
    expect(Math.fround(Number(text))).toBe(float[0]);
    expect(text.replace(/e.*|\D/g, "").replace(/^0+|0+$/g, "").length).toBeLessThanOrEqual(9);
  }
});

test("three significant digits", () => {
  expect(short(0.05278)).toBe("0.0528");
  expect(short(0.8)).toBe("0.800");
  expect(short(0.99996)).toBe("1.00");
  expect(short(1.2345e-7)).toBe("1.23e-7");
  expect(short(0)).toBe("0");
  expect(short(Number.NaN)).toBe("NaN");
});

test("inside a cell", () => {
  expect([0.789, 0.995, 1, 0.104].map(tiny)).toEqual([".79", ".99", "1.00", ".10"]);
});
