import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Channel } from "../src/host/channel";
import { KernelSource } from "../src/host/kernel";
import { Life } from "../src/host/life";
import { FakeModel, weight } from "./model";

const WANT = { example: 0, layer: 1, head: 0, rows: [0, 4], cols: [0, 4], size: null } as const;
const want = () => ({ ...WANT, rows: [0, 4] as [number, number], cols: [0, 4] as [number, number] });

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test("a reply finds its request, whatever the order", async () => {
  const model = new FakeModel();
  const channel = new Channel(model, new Life());
  const [first, second] = [
    channel.ask({ kind: "open", view: "a" }, 100),
    channel.ask({ kind: "close", view: "a" }, 100),
  ];
  expect(model.sent.map(({ kind }) => kind)).toEqual(["open", "close"]);
  model.fire("msg:custom", { id: model.sent[1]!.id, ok: true, shape: [2, 2] });
  model.fire("msg:custom", { id: model.sent[0]!.id, ok: true, shape: [1, 1] });
  expect((await first).reply.shape).toEqual([1, 1]);
  expect((await second).reply.shape).toEqual([2, 2]);
});

test("what is not for us is let pass", () => {
  const model = new FakeModel();
  const late = vi.fn();
  new Channel(model, new Life()).ask({ kind: "open", view: "a" }, 100, late);
  for (const content of [null, "text", 3, {}, { id: "1" }, { id: -7, ok: true }]) model.fire("msg:custom", content);
  vi.advanceTimersByTime(100);
  expect(late).toHaveBeenCalledOnce(); // so it still waits
});

test("two views of a widget do not take each other's replies", () => {
  const model = new FakeModel();
  for (let i = 0; i < 2; i++) new Channel(model, new Life()).ask({ kind: "open", view: "a" }, 100);
  expect(model.sent[0]!.id).not.toBe(model.sent[1]!.id);
  expect(Number.isSafeInteger(model.sent[0]!.id)).toBe(true);
});

test("the deadline is told once, and a late reply still counts", async () => {
  const model = new FakeModel();
  const late = vi.fn();
  const asked = new Channel(model, new Life()).ask({ kind: "open", view: "a" }, 100, late);
  vi.advanceTimersByTime(99);
  expect(late).not.toHaveBeenCalled();
  vi.advanceTimersByTime(5000);
  expect(late).toHaveBeenCalledOnce();
  model.fire("msg:custom", { id: model.sent[0]!.id, ok: true });
  await expect(asked).resolves.toBeTruthy();
});

test("a reply in time is not late", async () => {
  const model = new FakeModel();
  const late = vi.fn();
  const asked = new Channel(model, new Life()).ask({ kind: "open", view: "a" }, 100, late);
  model.fire("msg:custom", { id: model.sent[0]!.id, ok: true });
  await asked;
  vi.advanceTimersByTime(5000);
  expect(late).not.toHaveBeenCalled();
});

test("errors come with the kernel's words; without a kernel, with ours", async () => {
  const model = new FakeModel();
  const channel = new Channel(model, new Life());
  const asked = channel.ask({ kind: "open", view: "a" }, 100);
  model.fire("msg:custom", { id: model.sent[0]!.id, ok: false, error: "the weights changed" });
  await expect(asked).rejects.toThrow("the weights changed");
  model.send = () => {
    throw new Error("no comm");
  };
  await expect(channel.ask({ kind: "open", view: "a" }, 100)).rejects.toThrow("run the cell again");
});

test("an answer that is not what it says is an error", async () => {
  const model = new FakeModel();
  const source = new KernelSource(model, new Life());
  const asked = source.pattern(want(), () => {});
  const values = new DataView(new ArrayBuffer(12));
  model.fire("msg:custom", { id: model.asked()[0]!.id, ok: true, shape: [4, 4] }, [values]);
  await expect(asked).rejects.toThrow("incomplete");
  const again = source.pattern(want(), () => {});
  model.answer(model.asked()[1]!);
  expect((await again).values[4]).toBe(weight(1, 0, 1, 0));
});

test("a view opens, and closes with its life, and leaves nothing behind", () => {
  const model = new FakeModel();
  const life = new Life();
  new KernelSource(model, life);
  expect(model.sent.map(({ kind }) => kind)).toEqual(["open"]);
  window.dispatchEvent(new Event("pagehide"));
  life.end();
  expect(model.sent.map(({ kind }) => kind)).toEqual(["open", "close", "close"]);
  expect(new Set(model.sent.map(({ view }) => view)).size).toBe(1);
  expect(model.listeners).toBe(0);
  expect(vi.getTimerCount()).toBe(0);
  window.dispatchEvent(new Event("pagehide"));
  expect(model.sent.length).toBe(3);
});
