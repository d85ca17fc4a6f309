/* Browsers refuse workers in pages opened from disk. There, the search runs in a hidden frame, with
   the part of a worker's interface that it uses. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inside = frame.contentWindow;
      const deliver = (target, data) => {
        const event = new MessageEvent("message", { data });
        target.dispatchEvent(event);
      };
      inside.document.open();
      inside.document.close();
      inside.postMessage = (data) => setTimeout(() => deliver(this, data));
      inside.importScripts = (...scripts) =>
        scripts.reduce(
          (loaded, script) => loaded.then(() => this.load(script)),
          Promise.resolve(),
        );
      this.inside = inside;
      this.deliver = deliver;
      this.ready = this.load(url);
    }

    load(url) {
      return new Promise((resolve, reject) => {
        const script = this.inside.document.createElement("script");
        script.src = url;
        script.onload = () => resolve();
        script.onerror = () => reject(new Error(url));
        this.inside.document.body.appendChild(script);
      });
    }

    postMessage(data) {
      this.ready.then(() => this.deliver(this.inside, data));
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  };
}
