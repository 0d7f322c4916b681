// How fast the model answers, and what it takes.
package dev.hotset.sample.ui

import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import dev.hotset.sample.ChatState
import dev.hotset.sample.status

@Composable
fun StatusLine(state: ChatState) {
    val text = status(state.statistics, state.memory)
    if (text.isNotEmpty()) Text(text, style = MaterialTheme.typography.labelSmall)
}
