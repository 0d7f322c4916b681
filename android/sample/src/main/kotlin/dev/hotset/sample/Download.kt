// Downloads one large file, and goes on where an earlier attempt ended. Plain Java: it is tested without a phone.
package dev.hotset.sample

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.FlowCollector
import kotlinx.coroutines.flow.conflate
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL

/** The file at an address, on its way to [target]. What has arrived is in a `.part` file beside it until all has. */
class Download(private val from: URL, private val target: File, private val freeBytes: (File) -> Long = File::getUsableSpace) {
    private val part = File("$target.part")

    /** What the server called this version of the file; another one must not be appended to it. */
    private val version = File("$target.version")

    /** Downloads and tells which share is there, 0 to 1; fails with an [IOException]. Cancelling keeps what has arrived. */
    fun run(): Flow<Double> = flow {
        val connection = from.openConnection() as HttpURLConnection
        try {
            receive(connection)
        } finally {
            connection.disconnect()
        }
        if (!part.renameTo(target)) throw IOException("$part cannot be renamed to $target")
        version.delete()
    }.conflate().flowOn(Dispatchers.IO)

    private suspend fun FlowCollector<Double>.receive(connection: HttpURLConnection) {
        connection.connectTimeout = TIMEOUT_MS
        connection.readTimeout = TIMEOUT_MS
        if (part.length() > 0 && version.exists()) {
            connection.setRequestProperty("Range", "bytes=${part.length()}-")
            connection.setRequestProperty("If-Range", version.readText())
        }
        // Otherwise lengths would be of what is sent compressed.
        connection.setRequestProperty("Accept-Encoding", "identity")

        var there = when (connection.responseCode) {
            HttpURLConnection.HTTP_PARTIAL -> part.length()
            HttpURLConnection.HTTP_OK -> 0L
            else -> throw IOException("the server says ${connection.responseCode} ${connection.responseMessage.orEmpty()}")
        }
        val missing = connection.contentLengthLong
        if (missing < 0) throw IOException("the server does not say how large the file is")
        if (freeBytes(target.absoluteFile.parentFile!!) < missing + RESERVE) throw IOException("there is not enough free space for $missing bytes")
        val total = there + missing

        remember(connection)
        FileOutputStream(part, there > 0).use { file ->
            val buffer = ByteArray(1 shl 16)
            val stream = connection.inputStream
            while (true) {
                currentCoroutineContext().ensureActive()
                val count = stream.read(buffer)
                if (count < 0) break
                file.write(buffer, 0, count)
                there += count
                emit(there.toDouble() / total)
            }
            // It is not renamed before it is on storage.
            file.fd.sync()
        }
        if (there != total) throw IOException("the connection ended after $there of $total bytes; try again to go on")
    }

    private fun remember(connection: HttpURLConnection) {
        // Weak tags are no promise of equal bytes, and cannot be asked for.
        val tag = connection.getHeaderField("ETag")?.takeUnless { it.startsWith("W/") }
        val name = tag ?: connection.getHeaderField("Last-Modified")
        if (name == null) version.delete() else version.writeText(name)
    }

    private companion object {
        /** Also how long a cancellation may wait when the network is gone: a read cannot be interrupted. */
        const val TIMEOUT_MS = 10_000

        /** Left free, so that the rest of the phone goes on working. */
        const val RESERVE = 256L shl 20
    }
}
