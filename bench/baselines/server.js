// What people use today: an Express handler for Clay's callbacks, in the three stages that teams go through.
//
//   STORE=memory     the handler that is copied from page to page: keys in a Map, gone with the process
//   STORE=pg         every callback is an INSERT … ON CONFLICT DO NOTHING before it is answered
//   STORE=pg-amqp    and then published to a quorum queue, the confirm awaited before it is answered
//
// Written as well as such a handler is when it is written well: the signature over the raw bytes in constant time,
// a pool, a prepared statement, one confirm channel. One process, as the Map demands and as most are deployed.

import { createHash, createHmac, randomUUID, timingSafeEqual } from "node:crypto";
import express from "express";

const { AMQP_URL, DATABASE_URL, PORT, SECRET, STORE } = process.env;
const QUEUE = "baseline.callbacks";

const stores = {
  memory: async () => {
    const seen = new Map();
    return async (key, id) => {
      const known = seen.get(key);
      if (known) return { id: known, duplicate: true };
      seen.set(key, id);
      return { id, duplicate: false };
    };
  },

  pg: async () => {
    const { default: pg } = await import("pg");
    const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 });
    await pool.query(
      `CREATE TABLE IF NOT EXISTS callbacks (
         id uuid PRIMARY KEY, key bytea NOT NULL UNIQUE, received_at timestamptz NOT NULL DEFAULT now(),
         body json NOT NULL)`,
    );
    const insert = `INSERT INTO callbacks (id, key, body) VALUES ($1, $2, $3) ON CONFLICT (key) DO NOTHING`;
    const find = `SELECT id FROM callbacks WHERE key = $1`;
    return async (key, id, body) => {
      const bytes = Buffer.from(key, "hex");
      const stored = await pool.query({ name: "insert", text: insert, values: [id, bytes, body] });
      if (stored.rowCount === 1) return { id, duplicate: false };
      const known = await pool.query({ name: "find", text: find, values: [bytes] });
      return { id: known.rows[0].id, duplicate: true };
    };
  },

  "pg-amqp": async () => {
    const store = await stores.pg();
    const { default: amqp } = await import("amqplib");
    const channel = await (await amqp.connect(AMQP_URL)).createConfirmChannel();
    await channel.assertQueue(QUEUE, { durable: true, arguments: { "x-queue-type": "quorum" } });
    return async (key, id, body) => {
      const stored = await store(key, id, body);
      if (!stored.duplicate) {
        await new Promise((resolve, reject) => {
          const confirmed = (error) => (error ? reject(error) : resolve());
          channel.sendToQueue(QUEUE, Buffer.from(stored.id), { persistent: true }, confirmed);
        });
      }
      return stored;
    };
  },
};

const store = await stores[STORE]();
const app = express();
app.disable("x-powered-by");

app.post("/hmac", express.raw({ type: "application/json", limit: "1mb" }), async (request, response) => {
  const signature = createHmac("sha256", SECRET).update(request.body).digest();
  const presented = Buffer.from((request.get("x-clay-signature") ?? "").replace(/^sha256=/, ""), "hex");
  if (presented.length !== signature.length || !timingSafeEqual(presented, signature)) {
    return response.status(401).json({ error: "invalid signature" });
  }
  const lead = JSON.parse(request.body.toString("utf8"));
  if (!lead.email) return response.status(400).json({ error: "email is required" });
  const key = createHash("sha256").update(request.body).digest("hex");
  const stored = await store(key, randomUUID(), request.body.toString("utf8"));
  response.json({ received: true, ...stored, timestamp: new Date().toISOString() });
});

const server = app.listen(Number(PORT), "127.0.0.1", () => console.log("listening"));
server.keepAliveTimeout = 75_000;
