import type { RenderProps } from "./host/model";
import { showCache } from "./views/cache";

/** What anywidget loads: the view of an `ActivationCache`. */
export default {
  render({ model, el, signal }: RenderProps): () => void {
    return showCache(model, el, signal);
  },
};
