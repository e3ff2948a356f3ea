// The service worker: shows what the server pushes (daybook/features/push), and opens its page.
"use strict";

self.addEventListener("push", (event) => {
  const { title, body, tag, path } = event.data.json();
  event.waitUntil(self.registration.showNotification(title, { body, tag, icon: "/static/icon-192.png", data: { path } }));
});

self.addEventListener("notificationclick", (event) => {
  const url = new URL(event.notification.data.path, self.location.origin);
  event.notification.close();
  if (url.origin === self.location.origin) event.waitUntil(self.clients.openWindow(url.href));
});
