// What an application of KafkaJS does with a cluster.
//
// serve BOOTSTRAP    every codec, positions, admin requests, groups, commits; prints OK
// survive BOOTSTRAP  two producers with acks=all, one of them idempotent, and a group; when they are under way it prints
//                    STARTED and waits until a broker is killed; then compares what was acknowledged, stored and read;
//                    prints OK
'use strict'

const {
  AssignerProtocol, CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, PartitionAssigners, logLevel,
} = require('kafkajs')
const SnappyCodec = require('kafkajs-snappy')
const lz4 = require('lz4js')
const xxh32 = require('lz4js/xxh32')
const zstd = require('@bokuweb/zstd-wasm')

CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => {
    const frame = Buffer.from(lz4.compress(encoder.buffer))
    // It is one block, but lz4js does not say that it depends on no other, and Kafka refuses frames whose blocks may.
    frame[4] |= 0x20
    frame[6] = (xxh32.hash(0, frame, 4, 2) >>> 8) & 0xff
    return frame
  },
  decompress: async buffer => Buffer.from(lz4.decompress(buffer)),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async buffer => Buffer.from(zstd.decompress(buffer)),
})

// Milliseconds after which something that is waited for has failed.
const LIMIT = 60_000
// Milliseconds that a disconnection may take. KafkaJS can wait for ever for the answers of a broker that died; what it
// keeps open then ends with the program.
const DISCONNECT_LIMIT = 10_000
const START = 1_700_000_000_000
const COUNT = 500
const PARTITIONS = 4
const EACH = 25

function check(holds, what) {
  if (!holds) {
    throw new Error(what)
  }
}

// Equal as JSON.
function same(found, wanted, what) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)]
  check(a === b, `${what}: ${a}, not ${b}`)
}

async function raises(type, what, promise) {
  try {
    await promise
  } catch (error) {
    const types = [error.type, error.cause && error.cause.type, ...(error.errors || []).map(one => one.type)]
    check(types.includes(type), `${what}: ${types} ${error}`)
    return
  }
  check(false, `${what}: no ${type}`)
}

async function until(what, holds) {
  const end = Date.now() + LIMIT
  while (!(await holds())) {
    check(Date.now() < end, typeof what === 'function' ? what() : what)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

async function disconnected(client) {
  let timer
  const limit = new Promise(resolve => {
    timer = setTimeout(resolve, DISCONNECT_LIMIT)
  })
  await Promise.race([client.disconnect(), limit])
  clearTimeout(timer)
}

// A consumer with what it holds and has read.
class Member {
  constructor(kafka, groupId, more = {}) {
    this.consumer = kafka.consumer({
      groupId, heartbeatInterval: 200, sessionTimeout: 20_000, maxWaitTimeInMs: 50, ...more,
    })
    this.held = []
    this.read = []
    this.crash = null
    const { CRASH, GROUP_JOIN } = this.consumer.events
    this.consumer.on(GROUP_JOIN, ({ payload }) => {
      const all = Object.entries(payload.memberAssignment)
      this.held = all.flatMap(([topic, partitions]) => partitions.map(partition => `${topic}-${partition}`)).sort()
      this.protocol = payload.groupProtocol
    })
    this.consumer.on(CRASH, ({ payload }) => {
      // Otherwise it begins anew by itself.
      if (!payload.restart) {
        this.crash = payload.error
      }
    })
  }

  async join(topics, run = {}, fromBeginning = true) {
    await this.consumer.connect()
    await this.consumer.subscribe({ topics, fromBeginning })
    await this.consumer.run({
      eachMessage: async ({ topic, partition, message }) => {
        this.read.push({ topic, partition, ...message })
      },
      ...run,
    })
    return this
  }

  check() {
    check(this.crash === null, `the consumer gave up: ${this.crash && this.crash.stack}`)
  }

  async wait(what, holds) {
    await until(() => `${what}: holds ${this.held}, has read ${this.read.length}`, () => {
      this.check()
      return holds()
    })
  }

  leave() {
    return disconnected(this.consumer)
  }
}

async function create(admin, topic, numPartitions, config = {}) {
  const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }))
  const made = await admin.createTopics({
    waitForLeaders: true, topics: [{ topic, numPartitions, replicationFactor: 3, configEntries }],
  })
  check(made, `${topic} is new`)
}

// ---------------------------------------------------------------- one member

const value = i => `value-${i}`.repeat(20)

async function oneCodec(kafka, admin, name, compression) {
  const topic = `kafkajs-${name}`
  await create(admin, topic, 1)
  const producer = kafka.producer()
  await producer.connect()
  const messages = []
  for (let i = 0; i <= COUNT; i++) {
    messages.push({
      partition: 0,
      key: `key-${i}`,
      value: i === COUNT ? null : value(i),
      headers: { codec: name, n: [`${i}`, 'again'], empty: '' },
      timestamp: `${START + i * 10}`,
    })
  }
  // Several batches.
  let end = 0
  while (end < messages.length) {
    const some = messages.slice(end, end + 100)
    const [answer] = await producer.send({ topic, compression, acks: -1, messages: some })
    check(answer.baseOffset === `${end}`, `${name}: the batch of ${end} is at ${answer.baseOffset}`)
    end += some.length
  }
  await disconnected(producer)

  const [{ low, high }] = await admin.fetchTopicOffsets(topic)
  same([low, high], ['0', `${COUNT + 1}`], `${name}: beginning and end`)
  const member = await new Member(kafka, `${topic}-reader`).join([topic], { autoCommit: false })
  await member.wait(`${name}: all is read`, () => member.read.length > COUNT)
  check(member.read.length === COUNT + 1, `${name}: ${member.read.length} records came`)
  member.read.forEach((message, i) => {
    check(message.offset === `${i}`, `${name}: offset ${message.offset} at place ${i}`)
    check(message.timestamp === `${START + i * 10}`, `${name}: timestamp ${message.timestamp} of ${i}`)
    check(message.key.toString() === `key-${i}`, `${name}: key of ${i}`)
    if (i === COUNT) {
      check(message.value === null, `${name}: a null value stays null`)
    } else {
      check(message.value.toString() === value(i), `${name}: value of ${i}`)
    }
    const { codec, n, empty } = message.headers
    same([`${codec}`, n.map(String), empty.length], [name, [`${i}`, 'again'], 0], `${name}: headers of ${i}`)
  })
  // Positions by time; KafkaJS gives the end where no record is as young.
  const times = [[START + 2_500, 250], [START + 2_501, 251], [0, 0], [START + COUNT * 10, COUNT], [START * 2, COUNT + 1]]
  for (const [timestamp, wanted] of times) {
    const [{ offset }] = await admin.fetchTopicOffsetsByTimestamp(topic, timestamp)
    check(offset === `${wanted}`, `${name}: time ${timestamp} is at ${offset}`)
    if (wanted <= COUNT) {
      member.read = []
      member.consumer.seek({ topic, partition: 0, offset })
      await member.wait(`${name}: reading on from ${offset}`, () => member.read.length > 0)
      check(member.read[0].offset === offset, `${name}: after a seek to ${offset} came ${member.read[0].offset}`)
    }
  }
  await member.leave()
}

async function topics(kafka, admin) {
  const topic = 'kafkajs-topics'
  const configEntries = [{ name: 'retention.ms', value: '3600000' }]
  const about = { topic, numPartitions: 2, replicationFactor: 3, configEntries }
  await admin.createTopics({ validateOnly: true, waitForLeaders: false, topics: [about] })
  check(!(await admin.listTopics()).includes(topic), 'validateOnly creates nothing')
  await create(admin, topic, 2, { 'retention.ms': '3600000' })
  check(!(await admin.createTopics({ topics: [about] })), 'created twice')
  const nine = { topic: 'kafkajs-nine', numPartitions: 1, replicationFactor: 9 }
  await raises('INVALID_REPLICATION_FACTOR', 'nine replicas', admin.createTopics({ topics: [nine] }))
  await raises('INVALID_TOPIC_EXCEPTION', 'a name with a slash', admin.createTopics({ topics: [{ topic: 'a/b' }] }))
  check((await admin.listTopics()).includes(topic), 'the topic is listed')
  const metadata = async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions
  for (const partition of await metadata()) {
    same([...partition.replicas].sort(), [1, 2, 3], 'replicas')
    same(partition.leader, partition.replicas[0], 'leader')
  }
  const { brokers, clusterId } = await admin.describeCluster()
  same(brokers.map(broker => broker.nodeId).sort(), [1, 2, 3], 'brokers')
  check(clusterId.length > 0, 'the cluster has an id')

  await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] })
  await raises('INVALID_PARTITIONS', 'fewer', admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] }))
  await until('four partitions', async () => (await metadata()).length === 4)

  const resource = { type: ConfigResourceTypes.TOPIC, name: topic }
  const config = async name => {
    const asked = { ...resource, configNames: [name] }
    const { resources } = await admin.describeConfigs({ includeSynonyms: true, resources: [asked] })
    same(resources[0].configEntries.map(entry => entry.configName), [name], 'only what was asked for')
    return resources[0].configEntries[0].configValue
  }
  await until('the config of the creation', async () => (await config('retention.ms')) === '3600000')
  // The older request: it sets what it names and resets all else.
  const alter = (name, value) =>
    admin.alterConfigs({ validateOnly: false, resources: [{ ...resource, configEntries: [{ name, value }] }] })
  await alter('max.message.bytes', '2000000')
  await until('the altered config', async () => (await config('max.message.bytes')) === '2000000')
  await until('the reset config', async () => (await config('retention.ms')) === '604800000')
  await raises('INVALID_CONFIG', 'a bad value', alter('retention.ms', 'long'))

  // Moves a partition to two of its brokers, and waits for it.
  await admin.alterPartitionReassignments({
    topics: [{ topic, partitionAssignment: [{ partition: 0, replicas: [3, 1] }] }],
  })
  await until('the partition has moved', async () => {
    const { topics: moving } = await admin.listPartitionReassignments({ topics: [{ topic, partitions: [0] }] })
    const found = (await metadata()).find(partition => partition.partitionId === 0)
    return moving.length === 0 && JSON.stringify(found.replicas) === '[3,1]'
  })

  await admin.deleteTopics({ topics: [topic] })
  // KafkaJS tries again what is not there, because it may be on its way.
  const unknown = kafka.admin({ retry: { retries: 0 } })
  await unknown.connect()
  await raises('UNKNOWN_TOPIC_OR_PARTITION', 'never there', unknown.deleteTopics({ topics: ['never-there'] }))
  await disconnected(unknown)
  await until('the deleted topic is listed no more', async () => !(await admin.listTopics()).includes(topic))

  await admin.deleteTopicRecords({ topic: 'kafkajs-zstd', partitions: [{ partition: 0, offset: '100' }] })
  const [{ low }] = await admin.fetchTopicOffsets('kafkajs-zstd')
  check(low === '100', `the beginning after deleteTopicRecords is ${low}`)
}

// ---------------------------------------------------------------- groups

// KafkaJS has one assigner and lets applications bring their own: this one gives neighbouring partitions.
const neighbours = ({ cluster }) => ({
  name: 'Neighbours',
  version: 1,
  async assign({ members, topics }) {
    const sorted = members.map(member => member.memberId).sort()
    return sorted.map((memberId, place) => {
      const assignment = {}
      for (const topic of topics) {
        const all = cluster.findTopicPartitionMetadata(topic).map(partition => partition.partitionId).sort()
        const edge = index => Math.floor((all.length * index) / sorted.length)
        assignment[topic] = all.slice(edge(place), edge(place + 1))
      }
      return { memberId, memberAssignment: AssignerProtocol.MemberAssignment.encode({ version: this.version, assignment }) }
    })
  },
  protocol({ topics }) {
    return { name: this.name, metadata: AssignerProtocol.MemberMetadata.encode({ version: this.version, topics }) }
  },
})

async function joinAndLeave(kafka, admin, topic, assigner, protocol) {
  const group = `kafkajs-${protocol}`
  const more = { partitionAssigners: [assigner] }
  const all = Array.from({ length: PARTITIONS }, (_, i) => `${topic}-${i}`)
  const first = await new Member(kafka, group, more).join([topic], { autoCommit: false })
  await first.wait(`${group}: one has all`, () => first.held.length === PARTITIONS)
  const second = await new Member(kafka, group, more).join([topic], { autoCommit: false })
  const shared = () => first.held.length === 2 && second.held.length === 2
  await first.wait(`${group}: each has half`, shared)
  same([...first.held, ...second.held].sort(), all, `${group}: both have`)
  check(first.protocol === protocol, `${group}: the protocol is ${first.protocol}`)
  const seen = () => new Set([...first.read, ...second.read].map(message => `${message.value}`))
  await second.wait(`${group}: all is read`, () => seen().size === PARTITIONS * EACH)

  const { groups: [described] } = await admin.describeGroups([group])
  same([described.state, described.protocol, described.members.length], ['Stable', protocol, 2], group)
  const { memberAssignment } = described.members[0]
  const decoded = AssignerProtocol.MemberAssignment.decode(memberAssignment)
  check(decoded.assignment[topic].length === 2, `${group}: a member is described with ${JSON.stringify(decoded)}`)
  const { groups: listed } = await admin.listGroups()
  same(listed.find(one => one.groupId === group), { groupId: group, protocolType: 'consumer' }, 'listed')
  await refuses('NON_EMPTY_GROUP', group, admin)

  await second.leave()
  await first.wait(`${group}: one has all again`, () => first.held.length === PARTITIONS)
  await first.consumer.commitOffsets(
    all.map((_, partition) => ({ topic, partition, offset: `${EACH - 1}`, metadata: 'all but one' })))
  await first.leave()

  // Whoever comes next goes on at what was committed.
  const third = await new Member(kafka, group, more).join([topic], { autoCommit: false })
  await third.wait(`${group}: what is left is read`, () => third.read.length >= PARTITIONS)
  await third.leave()
  same(third.read.map(message => message.offset), all.map(() => `${EACH - 1}`), `${group}: what was left`)
  await until(`${group} is empty`, async () => (await admin.describeGroups([group])).groups[0].state === 'Empty')
  await admin.deleteGroups([group])
  await refuses('GROUP_ID_NOT_FOUND', group, admin)
}

async function refuses(type, group, admin) {
  try {
    await admin.deleteGroups([group])
  } catch (error) {
    same(error.groups.map(one => one.error.type), [type], `delete ${group}`)
    return
  }
  check(false, `delete ${group}: no ${type}`)
}

async function commits(kafka, admin, topic) {
  const group = 'kafkajs-commits'
  const offsets = async () => {
    const [{ partitions }] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
    return partitions.sort((a, b) => a.partition - b.partition)
  }
  const numbers = async () => (await offsets()).map(one => Number(one.offset))
  same(await numbers(), [-1, -1, -1, -1], 'nothing is committed yet')
  // By hand, with a note.
  let member = await new Member(kafka, group).join([topic], { autoCommit: false })
  await member.wait('all is read', () => member.read.length === PARTITIONS * EACH)
  await member.consumer.commitOffsets([{ topic, partition: 0, offset: '7', metadata: 'halfway' }])
  await member.consumer.commitOffsets([1, 2, 3].map(partition => ({ topic, partition, offset: `${EACH}` })))
  await member.leave()
  same(await numbers(), [7, EACH, EACH, EACH], 'committed by hand')
  check((await offsets())[0].metadata === 'halfway', 'the note of the commit')

  // On from there, committed by the client; paused meanwhile.
  member = new Member(kafka, group)
  await member.join([topic], {
    autoCommitInterval: 50,
    eachMessage: async ({ topic, partition, message }) => {
      member.read.push({ topic, partition, ...message })
      if (message.offset === '10') {
        member.consumer.pause([{ topic }])
      }
    },
  })
  await member.wait('it pauses', () => member.consumer.paused().length === 1)
  check(member.read[0].offset === '7', `a restarted consumer begins at ${member.read[0].offset}`)
  member.consumer.resume([{ topic }])
  await member.wait('the rest', () => member.read.length >= EACH - 7)
  await until('the client commits', async () => JSON.stringify(await numbers()) === '[25,25,25,25]')
  await member.leave()
  check(member.read.length === EACH - 7, `it read ${member.read.length}`)

  // Batches, of which the application says how far it has come.
  await admin.resetOffsets({ groupId: group, topic, earliest: true })
  member = new Member(kafka, group)
  await member.join([topic], {
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat, commitOffsetsIfNecessary, uncommittedOffsets }) => {
      for (const message of batch.messages) {
        member.read.push(message)
        resolveOffset(message.offset)
      }
      await commitOffsetsIfNecessary(uncommittedOffsets())
      await heartbeat()
    },
  })
  await member.wait('all again', () => member.read.length >= PARTITIONS * EACH)
  await until('batches are committed', async () => JSON.stringify(await numbers()) === '[25,25,25,25]')
  await member.leave()
  check(member.read.length === PARTITIONS * EACH, `in batches it read ${member.read.length}`)

  await admin.setOffsets({ groupId: group, topic, partitions: [{ partition: 2, offset: '3' }] })
  same(await numbers(), [EACH, EACH, 3, EACH], 'setOffsets')
  await admin.resetOffsets({ groupId: group, topic, earliest: false })
  member = await new Member(kafka, group).join([topic], {}, false)
  await member.wait('it has all', () => member.held.length === PARTITIONS)
  const producer = kafka.producer()
  await producer.connect()
  await producer.send({ topic, messages: [{ value: 'after the end', partition: 1 }] })
  await disconnected(producer)
  await member.wait('what comes after the end', () => member.read.length > 0)
  same(member.read.map(message => `${message.value}`), ['after the end'], 'from the end')
  await member.leave()
}

async function serve(kafka) {
  const admin = kafka.admin()
  await admin.connect()
  const codecs = { none: 0, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD }
  for (const [name, type] of Object.entries(codecs)) {
    await oneCodec(kafka, admin, name, type)
  }
  await topics(kafka, admin)
  const topic = 'kafkajs-groups'
  await create(admin, topic, PARTITIONS)
  const producer = kafka.producer({ idempotent: true })
  await producer.connect()
  for (let i = 0; i < EACH; i++) {
    const messages = Array.from({ length: PARTITIONS }, (_, partition) => ({ partition, value: `${i * PARTITIONS + partition}` }))
    await producer.send({ topic, acks: -1, messages })
  }
  await disconnected(producer)
  await joinAndLeave(kafka, admin, topic, PartitionAssigners.roundRobin, 'RoundRobinAssigner')
  await joinAndLeave(kafka, admin, topic, neighbours, 'Neighbours')
  await commits(kafka, admin, topic)
  await disconnected(admin)
  console.log('OK')
}

// ---------------------------------------------------------------- while a broker is killed

// A producer that sends batch after batch to each partition of a topic until it is told to stop. A record's value says
// which of its partition it is.
//
// One partition in each `send`: when one of several has a new leader that has answered for another, KafkaJS 2.2.4 takes
// that as the answer for both, and never sends the one.
class Sending {
  constructor(kafka, topic, exactlyOnce) {
    Object.assign(this, { topic, exactlyOnce, done: false, error: null })
    // By partition, the offset that was acknowledged for each record.
    this.acknowledged = Array.from({ length: PARTITIONS }, () => [])
    // Without a limit to its retries, as KafkaJS wants it where it is to be idempotent.
    const retry = { retries: Number.MAX_SAFE_INTEGER, maxRetryTime: 1_000 }
    this.producer = kafka.producer({ idempotent: exactlyOnce, maxInFlightRequests: 1, retry })
  }

  async start() {
    await this.producer.connect()
    this.running = Promise.all(this.acknowledged.map((_, partition) => this.run(partition))).catch(error => {
      this.error = error
    })
  }

  async run(partition) {
    const acknowledged = this.acknowledged[partition]
    while (!this.done) {
      const messages = Array.from({ length: 5 }, (_, i) => ({ partition, value: `${acknowledged.length + i}` }))
      const answers = await this.producer.send({ topic: this.topic, acks: -1, messages })
      check(answers.length === 1 && answers[0].partition === partition, `answers: ${JSON.stringify(answers)}`)
      messages.forEach((_, i) => acknowledged.push(Number(answers[0].baseOffset) + i))
    }
  }

  check() {
    check(this.error === null, `${this.topic}: ${this.error && this.error.stack}`)
  }

  // The fewest of a partition.
  count() {
    return Math.min(...this.acknowledged.map(offsets => offsets.length))
  }

  async stop() {
    this.done = true
    await this.running
    this.check()
    await disconnected(this.producer)
  }

  // `stored`: by partition, the values in the order of offsets, which begin at 0 and have no gap.
  checkStored(stored) {
    const total = lists => lists.reduce((sum, list) => sum + list.length, 0)
    this.acknowledged.forEach((offsets, partition) => {
      const [name, values] = [`${this.topic}-${partition}`, stored[partition]]
      offsets.forEach((offset, i) => {
        // -1: a batch that was answered as a duplicate.
        const found = offset === -1 ? values.find(one => one === `${i}`) : values[offset]
        check(found === `${i}`, `${name}: ${i} was acknowledged at ${offset}, where ${found} is`)
      })
      const wanted = offsets.map((_, i) => `${i}`)
      const kept = this.exactlyOnce ? values : [...new Set(values)]
      same(kept, wanted, `${name}, of which ${wanted.length} were acknowledged and ${values.length} stored`)
    })
    console.log(`${this.topic}: ${total(this.acknowledged)} sent and acknowledged, ${total(stored)} stored`)
  }
}

async function survive(kafka) {
  const admin = kafka.admin()
  await admin.connect()
  const group = 'kafkajs-survive'
  const names = ['kafkajs-once', 'kafkajs-least']
  for (const name of names) {
    await create(admin, name, PARTITIONS, { 'min.insync.replicas': '2' })
  }
  const members = [new Member(kafka, group), new Member(kafka, group)]
  for (const member of members) {
    // It commits by itself, after each fetch.
    await member.join(names)
  }
  await members[0].wait('the members share', () => members.every(member => member.held.length === PARTITIONS))
  const senders = [new Sending(kafka, names[0], true), new Sending(kafka, names[1], false)]
  for (const sender of senders) {
    await sender.start()
  }
  const healthy = () => [...members, ...senders].forEach(one => one.check())
  const more = async count => {
    const wanted = senders.map(sender => sender.count() + count)
    await until(`${count} more acknowledgements of each partition`, () => {
      healthy()
      return senders.every((sender, i) => sender.count() >= wanted[i])
    })
  }
  const leaders = async () => {
    const { topics: found } = await admin.fetchTopicMetadata({ topics: names })
    return new Set(found.flatMap(topic => topic.partitions.map(partition => partition.leader)))
  }
  await more(100)
  const before = await leaders()
  console.log('STARTED')
  await until('a broker leads no more: none was killed', async () => {
    healthy()
    let now
    try {
      now = await leaders()
    } catch (error) {
      // It had asked the one that was killed, or there is no leader yet.
      return false
    }
    return !now.has(-1) && [...before].some(leader => !now.has(leader))
  })
  await more(200)
  for (const sender of senders) {
    await sender.stop()
  }

  const ends = {}
  for (const name of names) {
    for (const { partition, high } of await admin.fetchTopicOffsets(name)) {
      ends[`${name}-${partition}`] = Number(high)
    }
  }
  const committed = async () => {
    const all = {}
    for (const { topic, partitions } of await admin.fetchOffsets({ groupId: group, topics: names })) {
      partitions.forEach(({ partition, offset }) => {
        all[`${topic}-${partition}`] = Number(offset)
      })
    }
    return all
  }
  let last
  await until(() => `the group commits to the end: ${JSON.stringify([ends, last])}`, async () => {
    healthy()
    last = await committed()
    return Object.keys(ends).every(name => last[name] === ends[name])
  })
  for (const member of members) {
    await member.leave()
  }
  const total = Object.values(ends).reduce((sum, end) => sum + end)
  const reader = await new Member(kafka, `${group}-reader`).join(names, { autoCommit: false })
  await reader.wait('all is read back', () => reader.read.length >= total)
  await reader.leave()
  for (const sender of senders) {
    const stored = Array.from({ length: PARTITIONS }, () => [])
    for (const message of reader.read.filter(one => one.topic === sender.topic)) {
      const values = stored[message.partition]
      check(message.offset === `${values.length}`, `a gap before ${message.offset} of ${message.topic}-${message.partition}`)
      values.push(`${message.value}`)
    }
    sender.checkStored(stored)
  }
  const read = new Set(members.flatMap(member => member.read.map(one => `${one.topic}-${one.partition} ${one.value}`)))
  for (const { topic, acknowledged } of senders) {
    acknowledged.forEach((offsets, partition) => offsets.forEach((_, i) => {
      check(read.has(`${topic}-${partition} ${i}`), `${topic}-${partition}: the group has not read ${i}`)
    }))
  }
  await disconnected(admin)
  console.log('OK')
}

async function main([command, bootstrap]) {
  await zstd.init()
  // Its warning about the partitioner of version 2 is for those who come from version 1.
  process.env.KAFKAJS_NO_PARTITIONER_WARNING = '1'
  const kafka = new Kafka({ brokers: bootstrap.split(','), clientId: 'interop', logLevel: logLevel.ERROR })
  await { serve, survive }[command](kafka)
}

main(process.argv.slice(2)).then(() => process.exit(0), error => {
  console.error(error)
  process.exit(1)
})
