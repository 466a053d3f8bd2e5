import { describe, expect, test } from "vitest";
import { BETWEEN, hitGrid, hitPattern, layout, type Shapes, thumbnailAt, WIDE } from "../src/views/cache/layout";

const SMOL: Shapes = { layers: 30, heads: 9, queries: 15, keys: 15, queryLabel: 60, keyLabel: 60 };
const SHAPES: [string, Shapes][] = [
  ["smol", SMOL],
  ["gpt2", { ...SMOL, layers: 12, heads: 12, queries: 128, keys: 128 }],
  ["xl, long", { ...SMOL, layers: 48, heads: 25, queries: 300, keys: 300 }],
  ["one head", { ...SMOL, layers: 1, heads: 1, queries: 1, keys: 1 }],
  ["one query over many keys", { ...SMOL, queries: 1, keys: 100 }],
];

describe.each(SHAPES)("%s", (_, shapes) => {
  test.each([480, 700, WIDE, 1300, 2000])("fits into %i px", (width) => {
    const { grid, pattern, side, wide } = layout(width, shapes);
    expect(wide).toBe(width >= WIDE);
    const columns = wide ? grid.width + BETWEEN + pattern.width : Math.max(grid.width, pattern.width);
    expect(columns + (side && side + BETWEEN)).toBeLessThanOrEqual(width);
    expect(grid.cellWidth).toBeGreaterThanOrEqual(5);
    expect(pattern.cellWidth).toBeGreaterThan(0.9);
    const last = thumbnailAt(grid, shapes.layers - 1, shapes.heads - 1);
    expect(last.left + grid.cellWidth).toBeLessThanOrEqual(grid.width);
    expect(last.top + grid.cellHeight).toBeLessThanOrEqual(grid.height);
    expect(pattern.y + pattern.cellHeight * shapes.queries).toBeLessThanOrEqual(pattern.height);
    expect(pattern.x + pattern.cellWidth * shapes.keys).toBeLessThanOrEqual(pattern.width);
  });

  test.each([480, 1300])("what is under the centre of a thumbnail or cell is itself, at %i px", (width) => {
    const { grid, pattern } = layout(width, shapes);
    for (const row of [0, shapes.layers - 1]) {
      for (const head of [0, shapes.heads - 1]) {
        const { left, top } = thumbnailAt(grid, row, head);
        expect(hitGrid(grid, shapes, left + grid.cellWidth / 2, top + grid.cellHeight / 2)).toEqual({ row, head });
      }
    }
    for (const query of [0, shapes.queries - 1]) {
      for (const key of [0, shapes.keys - 1]) {
        const [x, y] = [pattern.x + (key + 0.5) * pattern.cellWidth, pattern.y + (query + 0.5) * pattern.cellHeight];
        expect(hitPattern(pattern, x, y)).toEqual({ query, key });
      }
    }
  });
});

test("outside is nothing", () => {
  const { grid, pattern } = layout(1300, SMOL);
  expect(hitGrid(grid, SMOL, grid.x - 5, grid.y + 5)).toBeNull();
  expect(hitGrid(grid, SMOL, grid.x + 5, grid.y - 5)).toBeNull();
  expect(hitGrid(grid, SMOL, grid.width + 9, grid.y + 5)).toBeNull();
  expect(hitPattern(pattern, pattern.x - 1, pattern.y + 1)).toBeNull();
  expect(hitPattern(pattern, pattern.x + 1, pattern.y + pattern.cellHeight * 15 + 1)).toBeNull();
});

test("a tall grid lies on its side where there is one column, and stands where there are two", () => {
  expect(layout(1300, SMOL).grid.across).toBe(false);
  const { grid } = layout(700, SMOL);
  expect(grid.across).toBe(true);
  expect(grid.height).toBeLessThan(300);
  expect(grid.layerStep[1]).toBe(0);
  expect(grid.headStep[0]).toBe(0);
});

test("cells are whole pixels up to one tile", () => {
  for (const width of [480, 1300]) {
    const { cellWidth, cellHeight } = layout(width, { ...SMOL, queries: 128, keys: 128 }).pattern;
    expect(cellWidth).toBe(Math.round(cellWidth));
    expect(cellHeight).toBe(cellWidth);
  }
});
