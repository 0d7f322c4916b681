// Downloads against a server on this machine that sends what and as much as a test wants.
package dev.hotset.sample

import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import dev.hotset.failsWith
import dev.hotset.inTemporaryFolder
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.io.IOException
import java.net.InetSocketAddress
import java.net.URL
import kotlin.random.Random

class DownloadTest {
    @Test
    fun `a file arrives whole and progress rises to the end`() = served { server, target ->
        val progress = server.download(target).run().toList()
        assertArrayEquals(server.content, target.readBytes())
        assertEquals(progress.sorted(), progress)
        assertEquals(1.0, progress.last(), 0.0)
        assertEquals("nothing else is left", listOf(target), target.parentFile.listFiles()!!.toList())
    }

    @Test
    fun `what broke off goes on where it was`() = served { server, target ->
        server.cutAfter = 300_000
        failsWith<IOException> { server.download(target).run().collect() }
        assertFalse(target.exists())
        server.cutAfter = null
        server.download(target).run().collect()
        assertArrayEquals(server.content, target.readBytes())
        assertTrue("from ${server.lastRange}", server.lastRange!! in 1..300_000)
    }

    @Test
    fun `a cancelled download keeps what has arrived`() = served { server, target ->
        server.slow = true
        server.download(target).run().first()
        server.slow = false
        assertFalse(target.exists())
        server.download(target).run().collect()
        assertTrue("from ${server.lastRange}", server.lastRange!! > 0)
        assertArrayEquals(server.content, target.readBytes())
    }

    @Test
    fun `a file that has changed meanwhile is fetched anew`() = served { server, target ->
        server.cutAfter = 300_000
        failsWith<IOException> { server.download(target).run().collect() }
        server.cutAfter = null
        server.replace()
        server.download(target).run().collect()
        assertArrayEquals(server.content, target.readBytes())
    }

    @Test
    fun `without room nothing is written`() = served { server, target ->
        val error = failsWith<IOException> { server.download(target) { 1L shl 20 }.run().collect() }
        assertTrue("$error", error.message!!.contains("space"))
        assertEquals(0, target.parentFile.listFiles()!!.size)
    }

    @Test
    fun `what the server refuses is an error`() = served { server, target ->
        val error = failsWith<IOException> { Download(URL("${server.address}/nowhere"), target).run().collect() }
        assertTrue("$error", error.message!!.contains("404"))
    }

    private fun served(body: suspend (Server, File) -> Unit) = inTemporaryFolder { folder ->
        val server = Server()
        try {
            body(server, folder.resolve("model.hotset"))
        } finally {
            server.stop()
        }
    }

    private class Server {
        var content = Random(1).nextBytes(1_000_000)
            private set
        private var version = 1
        @Volatile var cutAfter: Int? = null

        /** Takes most of a second for a file. */
        @Volatile var slow = false
        @Volatile var lastRange: Int? = null
        private val http = HttpServer.create(InetSocketAddress("127.0.0.1", 0), 0)
        val address = "http://127.0.0.1:${http.address.port}"

        init {
            http.createContext("/model") { it.use(::answer) }
            http.start()
        }

        fun download(target: File, free: (File) -> Long = { 1L shl 40 }) = Download(URL("$address/model"), target, free)

        fun replace() {
            content = Random(2).nextBytes(900_000)
            version++
        }

        fun stop() = http.stop(0)

        private fun answer(exchange: HttpExchange) {
            val tag = "\"$version\""
            val range = exchange.requestHeaders.getFirst("Range").takeIf { exchange.requestHeaders.getFirst("If-Range") == tag }
            val from = range?.removePrefix("bytes=")?.removeSuffix("-")?.toInt() ?: 0
            lastRange = from
            exchange.responseHeaders.add("ETag", tag)
            exchange.sendResponseHeaders(if (range == null) 200 else 206, (content.size - from).toLong())
            val end = cutAfter?.coerceAtMost(content.size) ?: content.size
            for (start in from until end step 20_000) {
                exchange.responseBody.write(content, start, minOf(20_000, end - start))
                exchange.responseBody.flush()
                if (slow) Thread.sleep(10)
            }
        }
    }
}
