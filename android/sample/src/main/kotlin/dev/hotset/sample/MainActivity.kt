// The only activity: which screen is shown, and the document picker.
package dev.hotset.sample

import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.activity.result.contract.ActivityResultContracts
import androidx.activity.viewModels
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import dev.hotset.sample.ui.ChatScreen
import dev.hotset.sample.ui.ChooseScreen
import dev.hotset.sample.ui.ProgressScreen
import dev.hotset.sample.ui.SampleTheme

class MainActivity : ComponentActivity() {
    private val model: ChatViewModel by viewModels()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        enableEdgeToEdge()
        setContent { SampleTheme { Screens(model) } }
    }
}

@Composable
private fun Screens(model: ChatViewModel) {
    val screen by model.screen.collectAsStateWithLifecycle()
    val picker = rememberLauncherForActivityResult(ActivityResultContracts.OpenDocument()) { uri -> if (uri != null) model.pick(uri) }
    when (val now = screen) {
        // Bundles have no type of their own, so all documents are offered.
        is Screen.Choosing -> ChooseScreen(now.error, onPick = { picker.launch(arrayOf("*/*")) }, onDownload = model::download)
        is Screen.Downloading -> ProgressScreen(R.string.downloading, now.progress, onCancel = model::cancel)
        is Screen.Opening -> ProgressScreen(R.string.opening, now.progress, onCancel = model::cancel)
        is Screen.Chatting -> {
            val state by now.chat.state.collectAsStateWithLifecycle()
            ChatScreen(state, onSend = model::ask, onStop = model::stop, onNew = now.chat::startAnew, onLeave = model::leave)
        }
    }
}
