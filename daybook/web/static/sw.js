// The service worker: shows what the server pushes (daybook/features/push), and opens its page.
"use strict";
// A path of Daybook, below the prefix of a proxy if there is one.
const address = (path) => new URL(`.${path}`, self.registration.scope);

self.addEventListener("push", (event) => {
  const { title, body, tag, path } = event.data.json();
  event.waitUntil(self.registration.showNotification(title, { body, tag, icon: address("/static/icon-192.png").href, data: { path } }));
});

self.addEventListener("notificationclick", (event) => {
  const url = address(event.notification.data.path);
  event.notification.close();
  if (url.href.startsWith(self.registration.scope)) event.waitUntil(self.clients.openWindow(url.href));
});
