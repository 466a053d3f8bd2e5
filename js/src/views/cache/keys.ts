/** What keys mean, apart from where they are heard. */

/** Where an arrow, Home or End leads on a board; null for other keys. Stops at the edges. */
export function walk(key: string, row: number, col: number, rows: number, cols: number): [number, number] | null {
  const within = (at: number, count: number) => Math.max(0, Math.min(count - 1, at));
  switch (key) {
    case "ArrowUp":
      return [within(row - 1, rows), col];
    case "ArrowDown":
      return [within(row + 1, rows), col];
    case "ArrowLeft":
      return [row, within(col - 1, cols)];
    case "ArrowRight":
      return [row, within(col + 1, cols)];
    case "Home":
      return [row, 0];
    case "End":
      return [row, cols - 1];
    default:
      return null;
  }
}

/**
 * Hand a key to `handle`. What it takes goes no further: neither the page (scrolling) nor the notebook (commands)
 * hears of it. What it leaves, and every shortcut with a modifier, is the notebook's.
 */
export function take(event: KeyboardEvent, handle: (key: string) => boolean): void {
  const shifted = event.shiftKey && event.key.length > 1; // Shift+Enter; but "?" is shifted on many keyboards
  if (event.ctrlKey || event.metaKey || event.altKey || shifted || event.defaultPrevented) return;
  if (!handle(event.key)) return;
  event.preventDefault();
  event.stopPropagation();
}

/**
 * Keep what is typed over the view from the notebook: in command mode an `x` cuts the cell, `dd` deletes it. Shortcuts
 * with a modifier, Shift+Enter among them, stay the notebook's.
 */
export function keep(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const edits = ["Enter", "Backspace", "Delete"].includes(event.key) && !event.shiftKey;
  if (event.key.length === 1 || edits) event.stopPropagation();
}

export const HELP: [string, string][] = [
  ["\u2190 \u2191 \u2192 \u2193", "walk the heads, the pattern or the text"],
  ["[ ]", "the layer before, after"],
  ["Enter", "read the text from the row of the cell"],
  ["c", "copy the code for what is shown"],
  ["Esc", "let go"],
  ["?", "these keys"],
];
