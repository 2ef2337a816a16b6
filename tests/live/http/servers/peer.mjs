// A server and a client of Node: `serve PORT FILE`, `fetch URL [METHOD PATH BYTES]...`, `load URL CONNECTIONS EACH`.
import fs from 'node:fs';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

const LINE = 'HTTP/1.1 500 Not a head\r\n\r\n';
const [role, target, ...rest] = process.argv.slice(2);
await { serve, fetch: all, load }[role](target, ...rest);

function serve(port, file) {
  for (const host of ['127.0.0.1', '::1']) {
    const server = http.createServer((request, response) => answer(request, response, file));
    server.on('checkContinue', (request, response) => {
      if (!request.url.startsWith('/limited?')) response.writeContinue();
      answer(request, response, file);
    });
    server.listen(port, host);
  }
}

async function answer(request, response, file) {
  const length = { 'Content-Length': 6 };
  switch (request.url.split('?')[0]) {
    case '/hello': return response.end('hello\n');
    case '/hints':
      response.writeEarlyHints({ link: '</a.css>; rel=preload' });
      await sleep(20);
      return response.end('hello\n');
    case '/parts':
      response.writeHead(200, length).flushHeaders();
      await sleep(20);
      return response.end('hello\n');
    case '/empty': return response.writeHead(200, { 'Content-Length': 0 }).end();
    case '/none': return response.writeHead(204).end();
    case '/cached': return response.writeHead(304, { ETag: '"1"' }).end();
    case '/large':
      response.writeHead(200, { 'Content-Length': fs.statSync(file).size });
      return request.method === 'HEAD' ? response.end() : fs.createReadStream(file).pipe(response);
    case '/lines':
      // Where there are no chunks, there are no trailers.
      response.writeHead(200, request.httpVersion === '1.0' ? {} : { Trailer: 'X-Sum' });
      for (let i = 0; i < 20; i++) {
        response.write(LINE);
        await sleep(1);
      }
      if (request.httpVersion !== '1.0') response.addTrailers({ 'X-Sum': '1' });
      return response.end();
    case '/upload': {
      let bytes = 0;
      for await (const piece of request) bytes += piece.length;
      return response.end(`${bytes}\n`);
    }
    case '/limited': return response.writeHead(413, { 'Content-Length': 0, Connection: 'close' }).end();
    case '/error': return response.writeHead(500).end('error\n');
    case '/slow':
      await sleep(300);
      return response.end('late\n');
    default: return response.writeHead(404).end('missing\n');
  }
}

// One after the other, by fetch. Less than no bytes is a body of unknown length.
async function all(url, ...words) {
  for (let i = 0; i < words.length; i += 3) {
    const [method, path, bytes] = [words[i], words[i + 1], Number(words[i + 2])];
    const body = 'x'.repeat(Math.abs(bytes));
    const sent = bytes < 0 ? { body: new Blob([body]).stream(), duplex: 'half' } : bytes > 0 ? { body } : {};
    const response = await fetch(url + path, { method, ...sent });
    await response.arrayBuffer();
    console.log(response.status);
  }
}

// All at once, by an agent that keeps so many connections.
async function load(url, connections, each) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: Number(connections) });
  const one = () => new Promise((resolve, reject) => {
    const done = (response) => response.resume().on('end', () => resolve(response.statusCode));
    http.get(`${url}/hello`, { agent }, done).on('error', reject);
  });
  const statuses = await Promise.all(Array.from({ length: connections * each }, one));
  console.log(statuses.filter((status) => status === 200).length);
  agent.destroy();
}
