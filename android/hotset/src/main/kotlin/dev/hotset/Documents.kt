// Opening bundles that other apps hold: what the document picker gives is a Uri, not a path.
package dev.hotset

import android.content.Context
import android.net.Uri
import android.os.ParcelFileDescriptor
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import java.io.FileNotFoundException

/**
 * Opens the bundle behind a [uri] that the app may read, such as the document picker's, without copying it. It must be a file on the device: one
 * that is fetched from a cloud as it is read cannot be used, which fails with [HotsetException.File].
 *
 * @param onProgress as of [Hotset.Companion.open] with a file.
 */
public suspend fun Hotset.Companion.open(
    context: Context,
    uri: Uri,
    options: HotsetOptions = HotsetOptions(),
    onProgress: (Double) -> Unit = {},
): Hotset {
    // Assigned inside, closed outside: a result that `withContext` hands over is lost when the coroutine is cancelled right then.
    var document: ParcelFileDescriptor? = null
    try {
        withContext(Dispatchers.IO) { document = openForReading(context, uri) }
        val file = document ?: throw HotsetException.File("the provider of $uri has no file for it")
        if (file.statSize < 0) throw HotsetException.File("$uri is no file on this device; download it first")
        return open(file.fd, options, onProgress)
    } finally {
        document?.close()
    }
}

private fun openForReading(context: Context, uri: Uri): ParcelFileDescriptor? =
    try {
        context.contentResolver.openFileDescriptor(uri, "r")
    } catch (e: FileNotFoundException) {
        throw HotsetException.File("$uri cannot be opened: ${e.message}", e)
    } catch (e: SecurityException) {
        throw HotsetException.File("this app may not read $uri any more; let the user pick it again", e)
    }
