import { afterEach, beforeEach, expect, test, vi } from "vitest";
import view from "../src/cache-view";
import type { Spec } from "../src/protocol/messages";
import { type FakeModel, makeModel, weight } from "./model";

// What happy-dom has no measure of: a width, and a matrix's corner at the origin of its element.
let end: () => void = () => {};
beforeEach(() => {
  vi.spyOn(HTMLElement.prototype, "clientWidth", "get").mockReturnValue(1200);
  vi.stubGlobal(
    "ResizeObserver",
    class {
      constructor(readonly run: () => void) {}
      observe() {
        this.run();
      }
      disconnect() {}
    },
  );
});
afterEach(() => {
  end();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
  document.body.replaceChildren();
});

async function show(changes: Partial<Spec> = {}, traits: Record<string, unknown> = {}) {
  const model = makeModel(changes, traits);
  const host = document.body.appendChild(document.createElement("div"));
  end = view.render({ model, el: host });
  const shadow = host.firstElementChild!.shadowRoot!;
  const find = (id: string) => shadow.querySelector<HTMLElement>(`[data-testid="tlw-${id}"]`)!;
  await settle();
  return { model, host, shadow, find, root: find("root") };
}

const settle = () => new Promise((resolve) => setTimeout(resolve));

async function answer(model: FakeModel) {
  for (const request of model.asked()) model.answer(request);
  await settle();
}

function pointer(element: HTMLElement, type: string, row: number, col: number) {
  const { x, y, cellWidth, cellHeight, gap } = JSON.parse(element.dataset.layout!);
  const event = new MouseEvent(type, {
    clientX: x + col * (cellWidth + gap) + cellWidth / 2,
    clientY: y + row * (cellHeight + gap) + cellHeight / 2,
    bubbles: true,
  });
  element.dispatchEvent(event);
}

function press(element: HTMLElement, key: string) {
  const event = new KeyboardEvent("keydown", { key, bubbles: true, composed: true, cancelable: true });
  element.dispatchEvent(event);
}

test("a selected head is asked for, stands in meanwhile, and then is exact", async () => {
  const { model, root } = await show();
  expect(root.dataset).toMatchObject({ layer: "0", head: "0", exact: "false" });
  expect(model.asked()).toMatchObject([{ example: 0, layer: 0, head: 0, rows: [0, 4], cols: [0, 4], size: null }]);
  const before = Number(root.dataset.ready);
  await answer(model);
  expect(root.dataset.exact).toBe("true");
  expect(Number(root.dataset.ready)).toBeGreaterThan(before);
});

test("hovering previews without a word to the kernel, leaving returns, clicking commits", async () => {
  const { model, root, find } = await show();
  const asked = model.sent.length;
  pointer(find("grid"), "pointermove", 2, 1);
  expect(root.dataset).toMatchObject({ layer: "2", head: "1" });
  expect([model.sent.length, model.saves]).toEqual([asked, 0]);
  press(find("grid"), "Escape");
  expect(root.dataset).toMatchObject({ layer: "0", head: "0" });
  pointer(find("grid"), "pointermove", 1, 1);
  find("grid").dispatchEvent(new MouseEvent("pointerleave"));
  expect(root.dataset).toMatchObject({ layer: "0", head: "0" });
  pointer(find("grid"), "click", 2, 1);
  expect([model.get("layer"), model.get("head"), model.saves]).toEqual([2, 1, 1]);
});

test("rows of the grid are the layers that are there", async () => {
  const { model, find } = await show({ layers: [4, 7, 9], n_layers: 12 }, { layer: 4 });
  press(find("grid"), "ArrowDown");
  expect(model.get("layer")).toBe(7);
  press(find("root"), "]");
  press(find("root"), "]");
  expect(model.get("layer")).toBe(9);
  press(find("root"), "[");
  expect(model.get("layer")).toBe(7);
  expect(find("root").textContent).toContain("3 of 12 layers");
});

test("keys that are handled or typed stay here, others pass", async () => {
  const { find } = await show();
  const heard: string[] = [];
  const listen = (event: KeyboardEvent) => heard.push(event.key);
  document.addEventListener("keydown", listen);
  for (const key of ["ArrowDown", "[", "]", "Home", "d", "Escape", "F2"]) press(find("grid"), key);
  document.removeEventListener("keydown", listen);
  expect(heard).toEqual(["Escape", "F2"]); // there was nothing to let go of
});

test("the tooltip and the read-out say the weight, exactly, once it is here", async () => {
  const { model, find } = await show();
  pointer(find("pattern"), "pointermove", 3, 1);
  expect(find("tooltip").hidden).toBe(false);
  expect(find("exact").textContent).toBe("");
  expect(find("readout").textContent).toContain("\u2248 0.40L0H0"); // a thumbnail has it in eight bits
  await answer(model);
  expect(Math.fround(Number(find("exact").textContent))).toBe(weight(0, 0, 3, 1));
  expect(find("exact").textContent!.length).toBeGreaterThan(8);
  expect(find("readout").textContent).toContain(`${weight(0, 0, 3, 1).toPrecision(3)}L0H0 \u00b7 query 3 \u00b7 key 1`);
  expect(find("code").textContent).toBe('cache["pattern", 0][0, 0, 3, 1]');
  press(find("pattern"), "ArrowRight");
  expect(Math.fround(Number(find("exact").textContent))).toBe(weight(0, 0, 3, 2));
  expect(find("code").textContent).toBe('cache["pattern", 0][0, 0, 3, 2]');
});

test("a click on a token selects the position; hovering only previews", async () => {
  const { model, shadow, find } = await show();
  const tokens = [...shadow.querySelectorAll<HTMLElement>('[data-testid="tlw-token"]')];
  expect(tokens.map((token) => token.dataset.index)).toEqual(["0", "1", "2", "3"]);
  expect(shadow.querySelector("img")).toBeNull();
  tokens[1]!.dispatchEvent(new MouseEvent("pointerover", { bubbles: true }));
  expect(model.get("position")).toBe(3);
  expect(find("readout").textContent).toContain("query 1");
  tokens[2]!.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  expect(model.get("position")).toBe(2);
});

test("Python selects, and the page follows", async () => {
  const { model, root } = await show();
  await answer(model);
  model.set("layer", 2);
  expect(root.dataset).toMatchObject({ layer: "2", exact: "false" });
  await answer(model);
  expect(root.dataset.exact).toBe("true");
});

test("a reply for a head that was left is kept for coming back", async () => {
  const { model, root } = await show();
  model.set("layer", 1);
  await answer(model); // layer 0's; layer 1's is asked for only now
  expect(root.dataset).toMatchObject({ layer: "1", exact: "false" });
  model.set("layer", 0);
  expect(root.dataset.exact).toBe("true");
});

test("errors and silence are said beside the pattern, and can be tried again", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const shown = show();
  await vi.advanceTimersByTimeAsync(1);
  const { model, root, find } = await shown;
  const notice = find("notice");
  await vi.advanceTimersByTimeAsync(4000);
  expect(notice.textContent).toContain("kernel busy");
  expect(root.dataset.exact).toBe("false");
  model.fire("msg:custom", { id: model.asked()[0]!.id, ok: false, error: "<b>gone</b>" });
  await vi.advanceTimersByTimeAsync(1);
  expect(notice.textContent).toContain("<b>gone</b>");
  expect(notice.querySelector("b")).toBeNull();
  notice.querySelector("button")!.click();
  expect(model.asked().length).toBe(2);
  model.answer(model.asked()[1]!);
  await vi.advanceTimersByTimeAsync(1);
  expect([root.dataset.exact, notice.dataset.kind]).toEqual(["true", "idle"]);
  vi.useRealTimers();
});

test("nothing outlives the view", async () => {
  const { model, host } = await show();
  expect(model.listeners).toBeGreaterThan(0);
  end();
  expect(model.listeners).toBe(0);
  expect(host.children.length).toBe(0);
  expect(model.sent.at(-1)!.kind).toBe("close");
  end();
  expect(model.sent.filter(({ kind }) => kind === "close").length).toBe(1);
  const sent = model.sent.length;
  model.set("layer", 1);
  expect(model.sent.length).toBe(sent);
});

test("anywidget's signal ends it too", async () => {
  const model = makeModel();
  const host = document.createElement("div");
  const controller = new AbortController();
  end = view.render({ model, el: host, signal: controller.signal });
  controller.abort();
  expect([model.listeners, host.children.length]).toEqual([0, 0]);
});
