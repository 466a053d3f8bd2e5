import { describe, expect, test } from "vitest";
import { luminance, parseColor, type Rgb, STEPS, step, word } from "../src/draw/color";
import { background, makeTheme } from "../src/theme/theme";

describe.each<[string, Rgb]>([
  ["light", [255, 255, 255]],
  ["dark", [17, 17, 17]],
  ["sepia", [251, 241, 199]],
])("the ramp on a %s page", (name, page) => {
  const { ramp, dark, ink } = makeTheme(page);

  test("begins at the background, to the bit", () => {
    expect(ramp.colors[0]).toEqual(page);
    expect(ramp.words[0]).toBe(word(page));
    expect(dark).toBe(name === "dark");
  });

  test("goes one way in lightness, and far", () => {
    const light = ramp.colors.map(luminance);
    for (let i = 1; i < STEPS; i++) expect((light[i]! - light[i - 1]!) * (dark ? 1 : -1)).toBeGreaterThan(-0.004);
    expect(Math.abs(light.at(-1)! - light[0]!)).toBeGreaterThan(0.5);
  });

  test("carries readable text everywhere", () => {
    for (let i = 0; i < STEPS; i++) {
      const text = luminance(ink(i) === "#fff" ? [255, 255, 255] : [13, 21, 32]);
      const here = luminance(ramp.colors[i]!);
      expect((Math.max(text, here) + 0.05) / (Math.min(text, here) + 0.05)).toBeGreaterThan(4);
    }
  });
});

test("steps: nothing is nothing, more is more, out of range stays inside", () => {
  expect(step(0)).toBe(0);
  expect(step(1)).toBe(STEPS - 1);
  expect(step(1.5)).toBe(STEPS - 1);
  expect(step(-1)).toBe(0);
  expect(step(0.2)).toBeGreaterThan(step(0.1));
});

test("computed colours", () => {
  expect(parseColor("rgb(1, 2, 3)")).toEqual([1, 2, 3, 1]);
  expect(parseColor("rgba(1, 2, 3, 0.5)")).toEqual([1, 2, 3, 0.5]);
  expect(parseColor("rgb(1 2 3 / 50%)")).toEqual([1, 2, 3, 0.5]);
  expect(parseColor("color(srgb 1 0.5 0 / 0.25)")).toEqual([255, 127.5, 0, 0.25]);
  expect(parseColor("#1e1e1e")).toEqual([30, 30, 30, 1]);
  expect(parseColor("#fff")).toEqual([255, 255, 255, 1]);
  expect(parseColor("transparent")).toBeNull();
  expect(parseColor("var(--x)")).toBeNull();
});

test("the background is that of the nearest opaque ancestor, also out of a shadow root", () => {
  document.body.style.backgroundColor = "rgb(10, 20, 30)";
  const outer = document.createElement("div");
  const inner = document.createElement("div");
  inner.style.backgroundColor = "rgba(255, 255, 255, 0)";
  outer.attachShadow({ mode: "open" }).append(inner);
  document.body.append(outer);
  expect(background(inner, false)).toEqual([10, 20, 30]);
  outer.style.backgroundColor = "rgb(200, 200, 200)";
  expect(background(inner, false)).toEqual([200, 200, 200]);
});
