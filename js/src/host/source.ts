import type { Matrix, PatternWindow } from "../protocol/messages";

/** Where a view gets what it does not have yet: a live kernel, or what a static page carries. */
export interface DataSource {
  /** @param late called once if it takes too long; the promise still settles when the data comes */
  pattern(want: PatternWindow, late: () => void): Promise<Matrix>;
}
