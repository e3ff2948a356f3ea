// Keeps a page current: the server says that something changed (daybook/web/live.py), the page asks
// for itself again, and htmx changes what differs. A hidden page has no connection.
(() => {
  "use strict";
  const MIN_DELAY = 1000, MAX_DELAY = 60000, PATIENCE = 30000;
  const stream = new URL("../live", document.currentScript.src);
  const main = () => document.getElementById("main"), stale = document.getElementById("stale");
  let source = null, timer = 0, delay = MIN_DELAY, isAsking = false, wanted = "", readyAt = 0;

  async function ask() {
    const begun = Date.now(), headers = { "X-Daybook-Live": "1" };
    const answer = await fetch(location.href, { headers, signal: AbortSignal.timeout(PATIENCE) });
    if (answer.status === 401 || answer.status === 403) return location.reload();
    if (!answer.ok) throw new Error(answer.statusText);
    const text = await answer.text();
    // At most a tenth of the time is spent on updates, so that many pages leave the server room.
    readyAt = Date.now() + 10 * (Date.now() - begun);
    await htmx.swap({ text, sourceElement: main(), target: main(), select: "#main", swap: "outerMorph" });
    stale.hidden = true;
  }

  async function update() {
    if (isAsking) return;
    isAsking = true;
    try {
      for (let asked = ""; wanted !== asked && wanted !== main().dataset.live;) {
        await new Promise((done) => setTimeout(done, readyAt - Date.now()));
        asked = wanted;
        await ask();
      }
    } catch { again(); }
    isAsking = false;
  }

  function connect() {
    disconnect();
    source = new EventSource(stream);
    source.onmessage = (event) => { delay = MIN_DELAY; wanted = event.data; update(); };
    source.onerror = again;
  }

  function disconnect() {
    clearTimeout(timer);
    source?.close();
  }

  function again() {
    disconnect();
    stale.hidden = false;
    // Ask for the page first: the answer says whether the session has ended.
    timer = setTimeout(() => ask().then(connect, again), delay * (0.5 + Math.random() / 2));
    delay = Math.min(2 * delay, MAX_DELAY);
  }

  const follow = () => (document.hidden ? disconnect() : connect());
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
  follow();
})();
