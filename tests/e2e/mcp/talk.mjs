// The official JavaScript client of MCP, driven by lines: {"tool", "arguments"} or {"list": true}.
// argv: "stdio", the command and its arguments; or "http" and an address. A token is in TOKEN.
import { createInterface } from "node:readline";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [how, ...rest] = process.argv.slice(2);
const { TOKEN, ...env } = process.env;
const transport =
  how === "stdio"
    ? new StdioClientTransport({ command: rest[0], args: rest.slice(1), env })
    : new StreamableHTTPClientTransport(new URL(rest[0]), {
        requestInit: { headers: { Authorization: `Bearer ${TOKEN}` } },
      });
const client = new Client({ name: "a test's", version: "1" });
await client.connect(transport);
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const answer = asked.list
    ? await client.listTools()
    : await client.callTool({ name: asked.tool, arguments: asked.arguments });
  console.log(JSON.stringify(answer));
}
await client.close();
