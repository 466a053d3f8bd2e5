import type { Matrix } from "../../protocol/messages";

/** Mean attention to the token before and to the first token; null where there is no query to ask. */
export interface Facts {
  previous: number | null;
  first: number | null;
}

/**
 * @param offset keys before the first query
 * @param padding key positions to leave out, as queries and as what counts as first or previous
 */
export function headFacts({ rows, cols, values }: Matrix, offset: number, padding: readonly number[]): Facts {
  const padded = new Set(padding);
  let start = 0;
  while (padded.has(start)) start++;
  let [previous, first, count] = [0, 0, 0];
  for (let query = 0; query < rows; query++) {
    const self = query + offset;
    // The first token can only read itself: that says nothing about the head.
    if (self <= start || padded.has(self)) continue;
    previous += values[query * cols + self - 1]!;
    first += values[query * cols + start]!;
    count++;
  }
  return count === 0 ? { previous: null, first: null } : { previous: previous / count, first: first / count };
}
