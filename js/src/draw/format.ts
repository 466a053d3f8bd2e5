/** Numbers as text. */

/** Three significant digits: `0.0528`, `0.800`, `1.23e-7`. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  return value === 0 ? "0" : value.toPrecision(3).replace(/\.?0+e/, "e");
}

/** The shortest decimal that reads back as this very float32. */
export function exact(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  for (let digits = 1; digits < 9; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(Number(value.toPrecision(9))); // nine always do
}

/** Two decimals without the zero before the point, for inside a cell: `.79`, `1.00`. */
export function tiny(value: number): string {
  return value.toFixed(2).replace(/^0/, "");
}
