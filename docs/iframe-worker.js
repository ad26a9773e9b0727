// Search in pages that are opened from a disk. There a browser starts no worker from a file, so the
// script of the theme's search, which is meant for one, runs in a hidden frame of the page. The theme
// would load a package of the same purpose (iframe-worker) from the network. Only the messages are
// here; `importScripts` is missing, as search in English imports none.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.frame = frame;
      const inside = frame.contentWindow;
      // Firefox replaces an empty document when it has loaded, but not one that was written.
      inside.document.open();
      inside.document.write("<!doctype html><body></body>");
      inside.document.close();
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = inside.document.createElement("script");
      script.src = url;
      this.loaded = new Promise((done, failed) => {
        script.onload = done;
        script.onerror = () => failed(new Error(`${url} did not load`));
      });
      inside.document.body.append(script);
    }

    async postMessage(data) {
      await this.loaded;
      const inside = this.frame.contentWindow;
      inside.dispatchEvent(new inside.MessageEvent("message", { data }));
    }

    terminate() {
      this.frame.remove();
    }
  };
  // By this name the theme's script knows that it runs in a frame.
  window.IFrameWorker = window.Worker;
}
