// A page that is opened as a file may not start the search's Worker: a hidden frame stands in for it.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.body.appendChild(document.createElement("iframe"));
      this.frame.hidden = true;
      const scope = this.frame.contentWindow;
      addEventListener("message", (event) => {
        if (event.source === scope) this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      scope.document.open();
      scope.document.write(`<body><script>
        postMessage = (data) => parent.postMessage(data, "*");
        importScripts = async (...urls) => {
          for (const url of urls) {
            await new Promise((onload) =>
              document.body.append(Object.assign(document.createElement("script"), { src: url, onload })));
          }
        };
      <\/script><script src="${url}"><\/script></body>`);
      this.ready = new Promise((ready) => scope.addEventListener("load", ready));
      scope.document.close();
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
