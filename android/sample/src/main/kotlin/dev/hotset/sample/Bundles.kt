// Where the model is: a document that the user picked, or a file that was downloaded. Never an asset: those are compressed inside the APK.
package dev.hotset.sample

import android.content.Context
import android.content.Intent
import android.net.Uri
import androidx.core.content.edit
import androidx.core.net.toUri
import dev.hotset.Hotset
import dev.hotset.HotsetOptions
import dev.hotset.initialBudget
import dev.hotset.open
import java.io.File

/** The model of last time, and how to open it. */
class Bundles(private val context: Context) {
    private val settings = context.getSharedPreferences("bundles", Context.MODE_PRIVATE)

    /** Backed up, or copied to the next phone, a model would be in the way. */
    private val folder = context.noBackupFilesDir

    /** Where downloads go. */
    val downloaded = File(folder, "model.hotset")

    /** Where conversations are kept. */
    val conversations = File(folder, "conversations")

    /** What was learned about which experts are used, for a warm start. */
    val heat = File(folder, "heat.json")

    /** What was used last; `null` for the download. */
    private val picked: Uri?
        get() = settings.getString(PICKED, null)?.toUri()

    /** Whether there is a model to open. */
    val any: Boolean
        get() = picked != null || downloaded.exists()

    /** Takes a document from the picker, for this and later starts. */
    fun pick(uri: Uri) {
        context.contentResolver.takePersistableUriPermission(uri, Intent.FLAG_GRANT_READ_URI_PERMISSION)
        settings.edit { putString(PICKED, uri.toString()) }
        heat.delete()
    }

    /** Takes the download. */
    fun useDownload() {
        forget()
        heat.delete()
    }

    /** Takes nothing until something is picked or downloaded. */
    fun forget() = settings.edit { remove(PICKED) }

    /** Opens the model, with as much memory as the device can give now. */
    suspend fun open(onProgress: (Double) -> Unit): Hotset {
        val options = HotsetOptions(budget = initialBudget(context), heat = heat)
        val uri = picked
        return if (uri == null) Hotset.open(downloaded, options, onProgress) else Hotset.open(context, uri, options, onProgress)
    }

    private companion object {
        const val PICKED = "picked"
    }
}
