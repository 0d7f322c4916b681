// What survives the turning of the screen: the engine, the conversation, and work under way.
package dev.hotset.sample

import android.app.Application
import android.net.Uri
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.ProcessLifecycleOwner
import androidx.lifecycle.viewModelScope
import dev.hotset.Hotset
import dev.hotset.HotsetException
import dev.hotset.HotsetMemory
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.launch
import java.io.IOException
import java.net.MalformedURLException
import java.net.URL

/** Which screen there is. */
sealed interface Screen {
    /** No model yet; [error] says why not. */
    data class Choosing(val error: String? = null) : Screen

    /** A bundle is on its way. */
    data class Downloading(val progress: Double) : Screen

    /** A bundle is being opened. */
    data class Opening(val progress: Double) : Screen

    /** There is a model to talk to. */
    data class Chatting(val chat: Chat) : Screen
}

/**
 * The app, without its looks.
 *
 * Answers are made while the app is on the screen: [HotsetMemory] pauses the engine when it is not, and what was being said goes on when it is back.
 * An app that must answer in the background, such as one that summarises a long document, would run a foreground service for the time of that answer,
 * with a notification that says so and can stop it, and would pass `Background.CONTINUE` to [HotsetMemory].
 */
class ChatViewModel(application: Application) : AndroidViewModel(application) {
    private val bundles = Bundles(application)
    private val mutable = MutableStateFlow<Screen>(Screen.Choosing())
    val screen: StateFlow<Screen> = mutable.asStateFlow()

    private var engine: Hotset? = null
    private var memory: HotsetMemory? = null
    private var preparing: Job? = null
    private var answering: Job? = null

    init {
        if (bundles.any) prepare { open() }
    }

    fun pick(uri: Uri) = prepare {
        bundles.pick(uri)
        open()
    }

    fun download(address: String) = prepare {
        mutable.value = Screen.Downloading(0.0)
        Download(URL(address.trim()), bundles.downloaded).run().collect { mutable.value = Screen.Downloading(it) }
        bundles.useDownload()
        open()
    }

    /** Ends a download, which can go on later, or an opening. */
    fun cancel() {
        preparing?.cancel()
        mutable.value = Screen.Choosing()
    }

    fun ask(text: String) {
        val chat = (screen.value as? Screen.Chatting)?.chat ?: return
        answering = viewModelScope.launch { chat.ask(text) }
    }

    fun stop() {
        answering?.cancel()
    }

    /** Back to the choice of a model. */
    fun leave() {
        release()
        bundles.forget()
        mutable.value = Screen.Choosing()
    }

    override fun onCleared() = release()

    private fun prepare(work: suspend () -> Unit) {
        val before = preparing
        preparing = viewModelScope.launch {
            try {
                // Two must not write one file.
                before?.cancelAndJoin()
                work()
            } catch (e: HotsetException) {
                mutable.value = Screen.Choosing(e.message)
            } catch (_: MalformedURLException) {
                mutable.value = Screen.Choosing("that is no address")
            } catch (e: IOException) {
                mutable.value = Screen.Choosing(e.message)
            } catch (e: SecurityException) {
                mutable.value = Screen.Choosing(e.message)
            }
        }
    }

    private suspend fun open() {
        release()
        mutable.value = Screen.Opening(0.0)
        val opened = bundles.open { mutable.value = Screen.Opening(it) }
        engine = opened
        val chat = Chat.with(opened, bundles.conversations, bundles.heat)
        memory = HotsetMemory(getApplication(), opened, ProcessLifecycleOwner.get().lifecycle)
        mutable.value = Screen.Chatting(chat)
    }

    private fun release() {
        answering?.cancel()
        memory?.close()
        memory = null
        // Its sessions go with it.
        engine?.close()
        engine = null
    }
}
