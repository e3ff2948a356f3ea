// Subscribes this browser to notifications (daybook/features/push), and sends the form with its keys.
(() => {
  "use strict";
  const scope = new URL("../", document.currentScript.src).pathname;
  const form = document.getElementById("push"), problem = document.getElementById("push-problem");
  const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (each) => each.charCodeAt(0));
  const text = (data) => btoa(String.fromCharCode(...new Uint8Array(data))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

  async function subscribe() {
    if (!("serviceWorker" in navigator && "PushManager" in window)) throw new Error("This browser has no push notifications. They need https and, on an iPhone, Daybook on the home screen.");
    if (await Notification.requestPermission() !== "granted") throw new Error("This browser does not permit notifications for this site.");
    await navigator.serviceWorker.register(`${scope}static/sw.js`, { scope });
    const worker = await navigator.serviceWorker.ready;
    const key = bytes(form.dataset.key), old = await worker.pushManager.getSubscription();
    if (old && text(old.options.applicationServerKey) !== form.dataset.key) await old.unsubscribe();
    const made = await worker.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
    form.elements.endpoint.value = made.endpoint;
    form.elements.public_key.value = text(made.getKey("p256dh"));
    form.elements.auth.value = text(made.getKey("auth"));
    form.submit();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    problem.hidden = true;
    subscribe().catch((error) => { problem.textContent = error.message; problem.hidden = false; });
  });
})();
