// The conversation, the line to type in, and how the model fares.
package dev.hotset.sample.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.imePadding
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.material3.Button
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import dev.hotset.sample.ChatState
import dev.hotset.sample.R

@Composable
fun ChatScreen(state: ChatState, onSend: (String) -> Unit, onStop: () -> Unit, onNew: () -> Unit, onLeave: () -> Unit) {
    Scaffold(modifier = Modifier.imePadding()) { inner ->
        Column(modifier = Modifier.fillMaxSize().padding(inner).padding(horizontal = 16.dp)) {
            Header(state, onNew, onLeave)
            // Upside down, so that the newest line stays in sight while it grows.
            LazyColumn(
                modifier = Modifier.weight(1f).fillMaxWidth(),
                reverseLayout = true,
                verticalArrangement = Arrangement.spacedBy(8.dp),
            ) {
                items(state.messages.asReversed()) { MessageBubble(it) }
            }
            if (state.error != null) Text(state.error, color = MaterialTheme.colorScheme.error)
            StatusLine(state)
            Entry(state.answering, onSend, onStop)
        }
    }
}

@Composable
private fun Header(state: ChatState, onNew: () -> Unit, onLeave: () -> Unit) {
    Row(verticalAlignment = Alignment.CenterVertically) {
        Text(state.model, modifier = Modifier.weight(1f), style = MaterialTheme.typography.titleLarge)
        TextButton(onClick = onNew, enabled = !state.answering) { Text(stringResource(R.string.new_chat)) }
        TextButton(onClick = onLeave) { Text(stringResource(R.string.other_model)) }
    }
}

@Composable
private fun Entry(answering: Boolean, onSend: (String) -> Unit, onStop: () -> Unit) {
    var text by rememberSaveable { mutableStateOf("") }
    Row(
        modifier = Modifier.fillMaxWidth().padding(vertical = 8.dp),
        horizontalArrangement = Arrangement.spacedBy(8.dp),
        verticalAlignment = Alignment.CenterVertically,
    ) {
        OutlinedTextField(
            value = text,
            onValueChange = { text = it },
            placeholder = { Text(stringResource(R.string.say)) },
            modifier = Modifier.weight(1f),
        )
        if (answering) {
            OutlinedButton(onClick = onStop) { Text(stringResource(R.string.stop)) }
        } else {
            Button(
                onClick = {
                    onSend(text)
                    text = ""
                },
                enabled = text.isNotBlank(),
            ) {
                Text(stringResource(R.string.send))
            }
        }
    }
}
