import { el } from "../../draw/dom";
import type { Example, Token } from "../../protocol/messages";

/** A stretch of a token: its own text, or a mark of ours for what has no shape of its own. */
export interface Piece {
  kind: "text" | "mark" | "bytes";
  text: string;
}

const MARKS: Record<string, string> = { "\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d", "\u007f": "\u2421" };
const SPACE = "\u00b7";
// These would reorder what stands around them.
const REORDERS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/u;

function mark(char: string, alone: boolean): string | null {
  const code = char.codePointAt(0)!;
  if (char in MARKS) return MARKS[char]!;
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  // A joiner inside an emoji or a word is part of its shape; by itself it is nothing that could be seen.
  const invisible =
    REORDERS.test(char) || (code >= 0x80 && code < 0xa0) || (alone && /[\p{Cf}\p{Zs}\p{Zl}\p{Zp}]/u.test(char));
  return invisible ? `U+${code.toString(16).toUpperCase().padStart(4, "0")}` : null;
}

/** A token as it is shown: leading spaces as dots, line ends and other unseen characters as marks. */
export function pieces(token: Token): Piece[] {
  if (typeof token !== "string") return [{ kind: "bytes", text: token.bytes }];
  if (token === "") return [{ kind: "mark", text: "\u2205" }];
  const blank = /^[\s\p{Cf}]*$/u.test(token);
  const out: Piece[] = [];
  const push = (kind: Piece["kind"], text: string) => {
    const last = out.at(-1);
    if (last?.kind === kind) last.text += text;
    else out.push({ kind, text });
  };
  let leading = true;
  for (const char of token) {
    if (char === " ") {
      if (leading || blank) push("mark", SPACE);
      else push("text", char);
      continue;
    }
    const shown = mark(char, blank);
    if (shown !== null) push("mark", shown);
    else {
      if (out.at(-1)?.kind !== "text" && /^\p{M}/u.test(char)) push("mark", "\u25cc"); // something to combine with
      push("text", char);
    }
    leading = false;
  }
  return out;
}

/** `<|im_start|>` without its brackets: the outline says that it is special. */
const bare = (text: string) => /^<\|?([^<>|]+)\|?>$/.exec(text)?.[1] ?? text;

/** What takes the place of a token in plain text: in measuring, in titles of options. */
export function plain(token: Token, special = false): string {
  if (special && typeof token === "string") return bare(token);
  return pieces(token)
    .map((piece) => piece.text)
    .join("");
}

/** Everything about a token, for its title. */
export function describe(example: Example, position: number): string {
  const token = example.text[position]!;
  const text = typeof token === "string" ? JSON.stringify(token) : `bytes ${token.bytes}`;
  const kind = example.padding.includes(position) ? " \u00b7 padding" : "";
  return `${text}\nposition ${position} \u00b7 id ${example.id[position]}${kind}`;
}

/** A token as an element, isolated from the writing direction of its neighbours. */
export function tokenElement(example: Example, position: number): HTMLElement {
  const token = example.text[position] ?? "";
  const special = example.special.includes(position);
  const element = el("span", { class: special ? "tok special" : "tok", dir: "auto" });
  if (example.padding.includes(position)) element.classList.add("padding");
  if (special && typeof token === "string") element.append(bare(token));
  else {
    for (const { kind, text } of pieces(token))
      element.append(kind === "text" ? text : el("span", { class: kind }, text));
  }
  return element;
}
