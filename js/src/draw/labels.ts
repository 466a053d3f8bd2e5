/** Which labels along an axis are shown, and how much room they need. */

/**
 * Thin labels out so that none touches the next.
 *
 * @param count labels along the axis
 * @param step px from one to the next
 * @param room px that one takes across the axis
 * @param keep labels to show first, whatever else goes
 * @returns the indices shown, ascending
 */
export function thin(count: number, step: number, room: number, keep: readonly number[] = []): number[] {
  const apart = Math.max(1, Math.ceil(room / step - 1e-9));
  const regular = Array.from({ length: Math.ceil(count / apart) }, (_, i) => i * apart);
  if (apart === 1) return regular;
  const shown: number[] = [];
  for (const index of [...keep, ...regular]) {
    if (index >= 0 && index < count && shown.every((other) => Math.abs(other - index) >= apart)) shown.push(index);
  }
  return shown.sort((a, b) => a - b);
}

/** Measures text in px; a guess where there is no canvas to ask (tests). */
export function measurer(font: string): (text: string) => number {
  const context = document.createElement("canvas").getContext("2d");
  if (!context?.measureText) return (text) => 7 * text.length;
  context.font = font;
  return (text) => context.measureText(text).width;
}
