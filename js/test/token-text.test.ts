import { expect, test } from "vitest";
import { describe as about, pieces, plain, tokenElement } from "../src/views/cache/token-text";

const example = (text: (string | { bytes: string })[], special: number[] = []) => ({
  text,
  id: text.map((_, i) => i),
  special,
  padding: [],
});

test.each<[string | { bytes: string }, string[]]>([
  ["Mary", ["Mary"]],
  [" Mary", ["[\u00b7]", "Mary"]],
  ["  x", ["[\u00b7\u00b7]", "x"]],
  ["a b", ["a b"]],
  ["   ", ["[\u00b7\u00b7\u00b7]"]],
  ["\n", ["[\u21b5]"]],
  ["\n\n\t", ["[\u21b5\u21b5\u21e5]"]],
  [".\n", [".", "[\u21b5]"]],
  ["", ["[\u2205]"]],
  ["\u0000", ["[\u2400]"]],
  ["\u202eabc", ["[U+202E]", "abc"]],
  ["\u200d", ["[U+200D]"]],
  ["\u{1F468}\u200d\u{1F469}", ["\u{1F468}\u200d\u{1F469}"]],
  ["\u0301a", ["[\u25cc]", "\u0301a"]],
  [{ bytes: "e2 80" }, ["<e2 80>"]],
])("%j is shown as %j", (token, shown) => {
  const brackets = { text: ["", ""], mark: ["[", "]"], bytes: ["<", ">"] };
  expect(pieces(token).map(({ kind, text }) => brackets[kind].join(text))).toEqual(shown);
});

test("tokens are text, whatever they say", () => {
  const evil = "<img src=x onerror=alert(1)>";
  const element = tokenElement(example([evil]), 0);
  expect(element.children.length).toBe(0);
  expect(element.textContent).toBe(evil);
  expect(element.dir).toBe("auto");
});

test("special tokens lose their brackets, and keep them in the title", () => {
  const start = example(["<|im_start|>", "<s>"], [0, 1]);
  expect(tokenElement(start, 0).textContent).toBe("im_start");
  expect(tokenElement(start, 0).className).toContain("special");
  expect(plain(start.text[1]!, true)).toBe("s");
  expect(about(start, 0)).toContain('"<|im_start|>"');
  expect(tokenElement(example(["<b>"]), 0).textContent).toBe("<b>"); // not special
});
