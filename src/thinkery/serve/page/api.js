// The server: models, balance, and answers as they stream. Addresses are relative, so a prefix in front is fine.

const BROKEN = "The connection ended before the answer did.";

/** What the server, or the way to it, refused: `status` is 0 where there was no answer at all. */
export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

/** The models that can be asked, as the server lists them. */
export async function models(key) {
  return (await (await request("models", key)).json()).data;
}

/** The credit left as `{ currency, total_balance }`; null where the server keeps no accounts. */
export async function balance(key) {
  try {
    return (await (await request("user/balance", key)).json()).balance_infos[0] ?? null;
  } catch (error) {
    if (error instanceof ApiError && [403, 404].includes(error.status)) return null;
    throw error;
  }
}

/** Ask, and yield `{ thought }`, `{ content }` and at last `{ finish, usage }`; aborting `signal` ends the request. */
export async function* answer(key, body, signal) {
  const response = await request("chat/completions", key, {
    method: "POST",
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = parsed(data);
    if (chunk.error) throw new ApiError(response.status, said(chunk, "The server failed during the answer."));
    const choice = chunk.choices?.[0];
    if (isText(choice?.delta?.reasoning_content)) yield { thought: choice.delta.reasoning_content };
    if (isText(choice?.delta?.content)) yield { content: choice.delta.content };
    if (choice?.finish_reason || chunk.usage) yield { finish: choice?.finish_reason ?? null, usage: chunk.usage ?? null };
  }
  throw new ApiError(0, BROKEN);
}

/** The `data` of each server-sent event; comments and other fields are passed over. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read().catch(lost);
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      if (line || !data.length) continue;
      yield data.join("\n");
      data = [];
    }
  }
}

async function request(path, key, options = {}) {
  const headers = { ...(options.body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const body = await response.json().catch(() => null);
  throw new ApiError(response.status, said(body, `The server answered ${response.status}.`), retryAfter);
}

function lost(error) {
  if (error.name === "AbortError") throw error;
  throw new ApiError(0, BROKEN);
}

function parsed(data) {
  try {
    return JSON.parse(data) ?? {};
  } catch {
    throw new ApiError(0, "The server sent something that is no answer.");
  }
}

function said(body, otherwise) {
  return isText(body?.error?.message) ? body.error.message : otherwise;
}

function isText(value) {
  return typeof value === "string" && value !== "";
}
