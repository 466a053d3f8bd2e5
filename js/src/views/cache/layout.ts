/** Where everything is, from the width and the shapes alone: switching heads moves nothing. */

export interface GridLayout {
  width: number;
  height: number;
  /** The first thumbnail's corner. */
  x: number;
  y: number;
  cellWidth: number;
  cellHeight: number;
  gap: number;
  /** From one layer (row of the grid) to the next, and from one head to the next. */
  layerStep: [number, number];
  headStep: [number, number];
  /** Whether layers run from left to right: where there is one column, a tall grid lies on its side. */
  across: boolean;
}

export interface PatternLayout {
  width: number;
  height: number;
  /** The corner of the cell of the first query and the first key. */
  x: number;
  y: number;
  cellWidth: number;
  cellHeight: number;
  rows: number;
  cols: number;
}

export interface Layout {
  width: number;
  wide: boolean;
  grid: GridLayout;
  pattern: PatternLayout;
  /** Width of the list of strongest keys; 0 where it has no room. */
  side: number;
}

export interface Shapes {
  layers: number;
  heads: number;
  queries: number;
  keys: number;
  /** Px that the longest label takes, per axis. */
  queryLabel: number;
  keyLabel: number;
}

/** Two columns from here on: a container of 900 px less what pads it. */
export const WIDE = 864;
export const BETWEEN = 32; // columns
const NUMBERS = { width: 26, height: 20 }; // the grid's own labels, outside its cells
/** Slope of the key labels: steep enough to stand close, flat enough to read. */
export const ANGLE = 55;
const SIN = Math.sin((ANGLE * Math.PI) / 180);
const COS = Math.cos((ANGLE * Math.PI) / 180);

const clamp = (value: number, low: number, high: number) => Math.max(low, Math.min(high, value));

export function layout(width: number, shapes: Shapes): Layout {
  const wide = width >= WIDE;
  const grid = wide ? uprightGrid(width * 0.36, shapes) : fittingGrid(width, shapes);
  const room = wide ? width - grid.width - BETWEEN : width;
  // Below the grid: so that both are on the screen at once.
  const height = wide ? clamp(grid.height, 580, 700) : 500;
  const pattern = patternLayout(room, height, shapes);
  const rest = room - pattern.width - BETWEEN;
  return { width, wide, grid, pattern, side: rest >= 180 ? Math.min(rest, 300) : 0 };
}

function uprightGrid(room: number, { layers, heads }: Shapes): GridLayout {
  const gapFor = (cell: number) => (cell < 12 ? 1 : cell < 18 ? 2 : 3);
  let cellHeight = clamp(Math.floor(690 / layers) - 3, 8, 36);
  const gap = gapFor(cellHeight);
  // A little wider than high, where there is room: the grid is tall.
  const cellWidth = clamp(Math.floor((room - NUMBERS.width) / heads) - gap, 6, Math.round(cellHeight * 1.3));
  cellHeight = Math.min(cellHeight, Math.max(8, cellWidth));
  return place(layers, heads, cellWidth, cellHeight, gap, false);
}

/** In one column the pattern is below the grid, and both should be on the screen at once. */
function fittingGrid(room: number, shapes: Shapes): GridLayout {
  const across = shapes.layers > shapes.heads;
  const columns = across ? shapes.layers : shapes.heads;
  const lines = across ? shapes.heads : shapes.layers;
  const pitch = Math.min(Math.floor((room - NUMBERS.width - 2) / columns), Math.max(10, Math.floor(290 / lines)));
  const gap = pitch > 16 ? 2 : 1;
  const cell = clamp(pitch - gap, 5, 30);
  return place(shapes.layers, shapes.heads, cell, cell, gap, across);
}

function place(layers: number, heads: number, cellWidth: number, cellHeight: number, gap: number, across: boolean) {
  const [stepX, stepY] = [cellWidth + gap, cellHeight + gap];
  const [columns, rows] = across ? [layers, heads] : [heads, layers];
  const grid: GridLayout = {
    width: NUMBERS.width + columns * stepX + 2,
    height: NUMBERS.height + rows * stepY + 2,
    x: NUMBERS.width,
    y: NUMBERS.height,
    cellWidth,
    cellHeight,
    gap,
    layerStep: across ? [stepX, 0] : [0, stepY],
    headStep: across ? [0, stepY] : [stepX, 0],
    across,
  };
  return grid;
}

function patternLayout(room: number, height: number, shapes: Shapes): PatternLayout {
  const { queries, keys } = shapes;
  const x = Math.ceil(shapes.queryLabel) + 10;
  const y = Math.ceil(shapes.keyLabel * SIN + 14 * COS) + 4;
  const overhang = Math.ceil(shapes.keyLabel * COS) + 4; // the last key's label leans out to the right
  // Very oblong ones (one query over many keys) need not have square cells.
  const across = (room - x - overhang) / keys;
  const down = (height - y) / queries;
  // Whole pixels, and rather a little higher than a lot smaller.
  const whole = (size: number) => (size >= 2 ? Math.floor(size) : size);
  const cell = Math.min(whole(across), down >= 2 ? Math.floor(down + 0.3) : down, 40);
  const cellWidth = whole(queries * 4 < keys ? Math.min(across, 40) : cell);
  const cellHeight = whole(keys * 4 < queries ? Math.min(down, 40) : queries * 4 < keys ? Math.min(down, 24) : cell);
  return {
    width: Math.ceil(x + cellWidth * keys + overhang),
    height: Math.ceil(y + cellHeight * queries + 2),
    x,
    y,
    cellWidth,
    cellHeight,
    rows: queries,
    cols: keys,
  };
}

export function thumbnailAt(grid: GridLayout, row: number, head: number): { left: number; top: number } {
  return {
    left: grid.x + row * grid.layerStep[0] + head * grid.headStep[0],
    top: grid.y + row * grid.layerStep[1] + head * grid.headStep[1],
  };
}

/** The thumbnail under a point of the grid's element, gaps counted in; null outside. */
export function hitGrid(
  grid: GridLayout,
  shapes: Shapes,
  px: number,
  py: number,
): { row: number; head: number } | null {
  const [column, line] = [
    Math.floor((px - grid.x + grid.gap / 2) / (grid.cellWidth + grid.gap)),
    Math.floor((py - grid.y + grid.gap / 2) / (grid.cellHeight + grid.gap)),
  ];
  const [row, head] = grid.across ? [column, line] : [line, column];
  return row >= 0 && row < shapes.layers && head >= 0 && head < shapes.heads ? { row, head } : null;
}

/** The cell under a point of the pattern's element; null outside the matrix. */
export function hitPattern(pattern: PatternLayout, px: number, py: number): { query: number; key: number } | null {
  const query = Math.floor((py - pattern.y) / pattern.cellHeight);
  const key = Math.floor((px - pattern.x) / pattern.cellWidth);
  return query >= 0 && query < pattern.rows && key >= 0 && key < pattern.cols ? { query, key } : null;
}
