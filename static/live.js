/* What the server tells of coins: one stream of events for all pages of a browser, in a SharedWorker where there is one.
   This file is both: the page's part, and the worker. */
(function () {
  "use strict";
  const RETRY_MS = 5000;
  const SILENCE_MS = 20000; // the server says something every five seconds: after this long the connection is dead
  const MOST_COINS = 16;

  /* -> follow(coins): keeps one stream open for as long as any coin is followed; `tell` gets the markets that moved. */
  function following(tell) {
    let source = null;
    let followed = "";
    let retry = null;
    let heard = 0;

    function open() {
      clearTimeout(retry);
      if (source) source.close();
      source = followed ? new EventSource(`/api/v1/stream?symbol=${followed}&events=price`) : null;
      if (!source) return;
      heard = Date.now();
      const hear = (markets) => {
        heard = Date.now();
        tell(markets);
      };
      source.addEventListener("price", (event) => hear(JSON.parse(event.data).markets));
      source.addEventListener("alive", () => hear([]));
      // Refused, as it is while the server starts; any other loss the browser mends by itself.
      source.addEventListener("error", () => {
        if (source.readyState === EventSource.CLOSED) retry = setTimeout(open, RETRY_MS);
      });
    }

    setInterval(() => source && Date.now() - heard > SILENCE_MS && open(), RETRY_MS);
    return (coins) => {
      const wanted = [...new Set(coins)].sort().slice(0, MOST_COINS).join(",");
      if (wanted === followed) return;
      followed = wanted;
      open();
    };
  }

  if (typeof SharedWorkerGlobalScope !== "undefined") {
    const pages = new Map(); // port of a page -> its coin
    const follow = following((markets) => pages.forEach((_, port) => port.postMessage(markets)));
    self.onconnect = (connected) => {
      const [port] = connected.ports;
      port.onmessage = ({ data: coin }) => {
        if (coin) pages.set(port, coin);
        else pages.delete(port);
        follow([...pages.values()]);
      };
    };
    return;
  }

  const liqheat = (window.liqheat = window.liqheat || {});
  const address = document.currentScript.src;
  const baseOf = (market) => market.split(":")[1].split("/")[0];
  const told = (markets) => {
    const ours = markets.filter((m) => baseOf(m.market) === coin);
    if (ours.length || !markets.length) liqheat.told(ours);
  };
  let coin = null;
  let say = null;

  /* Some frames may have no worker: they follow by themselves, and only while they are seen. */
  function connect() {
    try {
      const { port } = new SharedWorker(address, "liqheat");
      port.onmessage = ({ data }) => told(data);
      addEventListener("pagehide", () => port.postMessage(null));
      addEventListener("pageshow", (event) => event.persisted && port.postMessage(coin));
      return () => port.postMessage(coin);
    } catch (error) {
      const follow = following(told);
      const tell = () => follow(coin && !document.hidden ? [coin] : []);
      document.addEventListener("visibilitychange", tell);
      return tell;
    }
  }

  liqheat.follow = (symbol) => {
    if (symbol === coin) return;
    coin = symbol;
    say = say || connect();
    say();
  };
})();
