import { expect, test, vi } from "vitest";
import { keep, take, walk } from "../src/views/cache/keys";

test("walking stops at the edges", () => {
  expect(walk("ArrowUp", 0, 1, 3, 4)).toEqual([0, 1]);
  expect(walk("ArrowDown", 1, 1, 3, 4)).toEqual([2, 1]);
  expect(walk("ArrowDown", 2, 1, 3, 4)).toEqual([2, 1]);
  expect(walk("ArrowLeft", 2, 0, 3, 4)).toEqual([2, 0]);
  expect(walk("ArrowRight", 2, 2, 3, 4)).toEqual([2, 3]);
  expect(walk("Home", 2, 2, 3, 4)).toEqual([2, 0]);
  expect(walk("End", 2, 2, 3, 4)).toEqual([2, 3]);
  expect(walk("a", 2, 2, 3, 4)).toBeNull();
});

test("a key that is taken goes no further; one that is left, or has a modifier, does", () => {
  const [inner, outer] = [document.createElement("div"), document.createElement("div")];
  outer.append(inner);
  const heard = vi.fn();
  outer.addEventListener("keydown", heard);
  inner.addEventListener("keydown", (event) => take(event, (key) => key === "x"));
  const press = (key: string, more: KeyboardEventInit = {}) => {
    const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
    inner.dispatchEvent(event);
    return event.defaultPrevented;
  };
  expect(press("x")).toBe(true);
  expect(heard).not.toHaveBeenCalled();
  expect(press("y")).toBe(false);
  expect(press("x", { ctrlKey: true })).toBe(false);
  expect(press("x", { metaKey: true })).toBe(false);
  expect(heard).toHaveBeenCalledTimes(3);
  // Shift+Enter runs a cell; "?" is a shifted key on many keyboards, and stays a character.
  const shifted = (key: string) => {
    const event = new KeyboardEvent("keydown", { key, shiftKey: true, cancelable: true });
    take(event, () => true);
    return event.defaultPrevented;
  };
  expect(shifted("Enter")).toBe(false);
  expect(shifted("ArrowDown")).toBe(false);
  expect(shifted("?")).toBe(true);
});

test("what is typed over the view is no command for the notebook", () => {
  const stopped = (key: string, more: KeyboardEventInit = {}) => {
    const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
    const stop = vi.spyOn(event, "stopPropagation");
    keep(event);
    expect(event.defaultPrevented).toBe(false);
    return stop.mock.calls.length > 0;
  };
  for (const key of ["x", "d", "m", "A", "1", " ", "Enter", "Delete"]) expect(stopped(key)).toBe(true);
  for (const key of ["Tab", "Escape", "F5", "PageDown"]) expect(stopped(key)).toBe(false);
  expect(stopped("s", { ctrlKey: true })).toBe(false);
  expect(stopped("Enter", { shiftKey: true })).toBe(false);
});
