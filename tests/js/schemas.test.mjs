/**
 * The published schemas in Ajv's strict mode, as a client's author would use them.
 *
 * The file that MESSAGES names has lines of JSON: `{"schema": "ClientMessage", "message": {...}}`.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import test from "node:test";

const require = createRequire(import.meta.url);
const Ajv = require("ajv/dist/2020").default;
const addFormats = require("ajv-formats").default;
const SCHEMAS = new URL("../../protocol/schemas/", import.meta.url);
const load = (name) => JSON.parse(readFileSync(new URL(`${name}.schema.json`, SCHEMAS), "utf8"));

function strict() {
  const warnings = [];
  const logger = { log() {}, warn: (text) => warnings.push(text), error: assert.fail };
  const ajv = new Ajv({ strict: true, logger });
  addFormats(ajv);
  return { ajv, warnings };
}

for (const name of ["messages", "transcript"]) {
  test(`${name}: compiles without a warning`, () => {
    const { ajv, warnings } = strict();
    ajv.compile(load(name));
    assert.deepEqual(warnings, []);
  });
}

test("each side's messages are valid there", () => {
  const { ajv } = strict();
  const { $id } = load("messages");
  ajv.addSchema(load("messages"));
  const lines = readFileSync(process.env.MESSAGES, "utf8").trim().split("\n");
  for (const line of lines) {
    const { schema, message } = JSON.parse(line);
    const validate = ajv.getSchema(`${$id}#/$defs/${schema}`);
    assert.ok(validate(message), `${line}: ${ajv.errorsText(validate.errors)}`);
  }
  assert.ok(lines.length > 10);
});
