/** The login: shows a token to the server, which answers with a cookie, and opens the page that was asked for. */

const form = document.getElementById("login");
const token = document.getElementById("token");
const notice = document.getElementById("notice");

/** A link from another site brings no cookie along, although there may be one: then the page opens at once. */
async function known() {
  const answer = await fetch("api/me");
  return answer.ok && (await answer.json()).role !== "nobody";
}

async function enter() {
  const body = JSON.stringify({ token: token.value.trim() });
  const answer = await fetch("api/login", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  if (answer.ok) return location.replace(clean());
  const { error = `The server answered ${answer.status}.` } = await answer.json().catch(() => ({}));
  notice.textContent = error[0].toUpperCase() + error.slice(1) + ".";
  token.select();
}

/** The address without a token that was wrong. */
function clean() {
  const address = new URL(location.href);
  address.searchParams.delete("token");
  return address.href;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  notice.textContent = "";
  enter().catch(() => (notice.textContent = "The server does not answer."));
});

if (new URL(location.href).searchParams.has("token")) notice.textContent = "The link's token is wrong, or its time is over.";
else if (await known().catch(() => false)) location.reload();
